"""What tensors bring into a save file: layers, heads, cells, tokens, the order within a K head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import UsageError, input_error
from tqcli.sources.base import SourceInfo, TensorSpec
from tqcli.sources.llamacpp.archs import HALVES, INTERLEAVED
from tqcli.sources.llamacpp.envelope import from_json
from tqcli.sources.llamacpp.file import I32, MAX_LAYERS, SaveFile, Stream
from tqcli.sources.llamacpp.model import Shape
from tqcli.sources.llamacpp.parts import batch_shape, parts_of

_PLACE = re.compile(r"layers\.([0-9]+)\.([kv])")


@dataclass(frozen=True, eq=False)
class Contents:
    """What does not depend on the file that will hold it.

    Parameters
    ----------
    where : path
        Of the tensors, for messages.
    layers : tuple of int
        Number in the model of each layer, ascending.
    shapes : tuple of Shape
    envelope : SaveFile, optional
        Of the save file that the tensors came from.
    streams : tuple of Stream
        Their cells.
    stream_count : int
    tokens : int32 array, optional
        Ids; None if nobody knows them.
    arch : str, optional
        ggml's name of the architecture.
    interleaved : bool
        Whether K lies with the halves of each head interleaved in the file.
    """

    where: Path
    layers: tuple[int, ...]
    shapes: tuple[Shape, ...]
    envelope: SaveFile | None
    streams: tuple[Stream, ...]
    stream_count: int
    tokens: I32 | None
    arch: str | None
    interleaved: bool


def contents_of(
    where: Path, info: SourceInfo, extras: Mapping[str, NDArray[Any]], arch: str | None
) -> Contents:
    """Gather them from a source.

    Parameters
    ----------
    where : path
    info : SourceInfo
        Its tensors and provenance; an ``envelope`` in the latter is used.
    extras : mapping
        ``token_ids`` and ``positions``, int32 of (seq_len,) or (batch, seq_len), where it has
        them.
    arch : str, optional
        ggml's name of the architecture, where the caller knows it.

    Raises
    ------
    InputError
        The tensors do not make one cache that llama.cpp could have.
    UsageError
        Something must be said: the architecture.
    """
    source = info.provenance
    if source.get("k") == "before RoPE":
        raise input_error(where, "K before RoPE", "a save file holds K after RoPE")
    kinds = source.get("layer_kinds")
    for layer, kind in (kinds if isinstance(kinds, dict) else {}).items():
        if kind != "full_attention":
            raise input_error(
                where,
                f"layer {layer} is {kind}",
                "a save file of such a model has a second cache, which is not supported",
            )
    layers, shapes, batch, seq_len = _layers(where, info.tensors)
    record = source.get("envelope")
    envelope = None if record is None else from_json(record, where, batch * seq_len)
    if envelope is None:
        if layers != tuple(range(len(layers))):
            missing = min(set(range(layers[-1])) - set(layers))
            raise input_error(where, f"no layers.{missing}", "a cache has all layers")
        streams: tuple[Stream, ...] = (_cells(where, batch, seq_len, extras.get("positions")),)
    else:
        streams = envelope.streams
        if batch_shape(parts_of(envelope)) != (batch, seq_len) or len(envelope.k) != len(layers):
            raise input_error(
                where,
                f"tensors of {len(layers)} layers, {batch} sequences of {seq_len} tokens",
                f"the envelope has {len(envelope.k)} layers and "
                f"{sum(stream.cells for stream in streams)} cells",
                "restore all that was dumped",
            )
    name, interleaved = _order(where, source, arch)
    ids = extras.get("token_ids")
    if envelope is not None:
        tokens: I32 | None = envelope.tokens
    else:
        tokens = None if ids is None else np.asarray(ids, np.int32).reshape(-1)
    return Contents(
        where=where,
        layers=layers,
        shapes=shapes,
        envelope=envelope,
        streams=streams,
        stream_count=1 if envelope is None else envelope.stream_count,
        tokens=tokens,
        arch=name,
        interleaved=interleaved,
    )


def _layers(
    where: Path, specs: tuple[TensorSpec, ...]
) -> tuple[tuple[int, ...], tuple[Shape, ...], int, int]:
    """Layers, their shapes, batch and seq_len, which all layers must share."""
    found: dict[int, dict[str, tuple[int, ...]]] = {}
    for spec in specs:
        if (place := _PLACE.fullmatch(spec.name)) is not None:
            found.setdefault(int(place[1]), {})[place[2]] = spec.shape
    if not 1 <= len(found) <= MAX_LAYERS:
        raise input_error(where, f"{len(found)} layers with K or V", f"1 to {MAX_LAYERS}")
    shapes, axes = [], set()
    for layer, sides in sorted(found.items()):
        if set(sides) != {"k", "v"}:
            raise input_error(where, f"layers.{layer} has no {'kv'['k' in sides]}", "both go in")
        (batch, heads, tokens, dim_k), (*alike, dim_v) = sides["k"], sides["v"]
        axes.add((batch, tokens))
        if tuple(alike) != (batch, heads, tokens):
            raise input_error(where, f"layers.{layer}: k and v differ", "alike but for head_dim")
        shapes.append(Shape(heads, dim_k, dim_v))
    if len(axes) != 1:
        raise input_error(where, "layers of different lengths", "all layers hold all tokens")
    (batch, tokens), *_ = axes
    if tokens == 0:
        raise input_error(where, "no token", "a save file of an empty cache restores nothing")
    return tuple(sorted(found)), tuple(shapes), batch, tokens


def _cells(where: Path, batch: int, seq_len: int, positions: NDArray[Any] | None) -> Stream:
    """One sequence in one stream, for tensors that no save file is behind."""
    if batch != 1:
        raise input_error(
            where, f"{batch} sequences", "one can be restored", "dump the sequence alone"
        )
    ids = np.arange(seq_len) if positions is None else np.asarray(positions).reshape(-1)
    if len(ids) != seq_len or (np.diff(ids) < 1).any() or ids[0] < 0:
        raise input_error(where, "positions that do not ascend", "one sequence can be restored")
    return Stream(
        index=0,
        positions=ids.astype(np.int32),
        seq_start=np.arange(seq_len + 1, dtype=np.int32),
        seq_ids=np.zeros(seq_len, np.int32),
        extra=np.empty((seq_len, 0), np.int32),
    )


def _order(where: Path, source: Mapping[str, Any], arch: str | None) -> tuple[str | None, bool]:
    """Architecture, and whether its K heads are interleaved in a save file."""
    said = source.get("architecture")
    known = said if isinstance(said, str) else None
    if "k_interleaved" in source:  # tensors of a save file: what was done is undone
        if arch is not None and arch != known:
            raise UsageError(
                f"--arch {arch}: {where} was read as {known or 'of unknown architecture'}; dump the"
                " save file again with --arch or --model"
            )
        return known, source["k_interleaved"] is True
    name = arch or known
    if name not in INTERLEAVED | HALVES:
        raise UsageError(
            f"{where}: architecture {name or 'unknown'}: the order of the values of a K head is "
            f"not known; give --model FILE.gguf, or --arch: {', '.join(sorted(INTERLEAVED))} "
            f"(interleaved), {', '.join(sorted(HALVES))}"
        )
    return name, name in INTERLEAVED
