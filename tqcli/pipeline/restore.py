"""K and V of any source back into a save file that an engine loads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from tqcli.errors import InputError
from tqcli.kv.dump import Dump
from tqcli.pipeline.pieces import Progress, no_progress
from tqcli.sources.base import Named, Source, SourceInfo, TensorSpec
from tqcli.sources.llamacpp.contents import contents_of
from tqcli.sources.llamacpp.gguf_header import read_header
from tqcli.sources.llamacpp.target import Target, plan_target
from tqcli.sources.llamacpp.wish import Wish
from tqcli.sources.llamacpp.write import SaveFileWriter


class DumpSource:
    """K and V of a dump as a source; Q stays behind."""

    def __init__(self, dump: Dump) -> None:
        if dump.domain != "original":
            raise InputError(f"{dump.path}: {dump.domain} domain; only an original dump goes back")
        self._dump = dump

    def describe(self) -> SourceInfo:
        """Token ids, positions, then K and V by layer."""
        extras = [
            TensorSpec(name, stored.entry.shape, "int32")
            for name, stored in self._dump.stored.items()
            if name in ("token_ids", "positions")
        ]
        specs = [TensorSpec(t.name, t.shape, t.dtype.name) for t in self._dump.kv()]
        return SourceInfo((*extras, *specs), self._dump.source)

    def tensors(self) -> Iterator[Named]:
        """Yield them, one at a time."""
        for spec in self.describe().tensors:
            yield spec.name, self._dump.stored[spec.name].read()


def restore(
    source: Source,
    where: str | os.PathLike[str],
    path: str | os.PathLike[str],
    wish: Wish,
    *,
    arch: str | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> tuple[Target, list[dict[str, Any]]]:
    """Write a llama.cpp save file.

    Parameters
    ----------
    source : Source
        Its ``layers.{i}.k`` and ``.v`` are float arrays (batch, heads, seq_len, head_dim), K after
        RoPE; its ``token_ids`` and ``positions`` come first. One tensor is held at a time.
    where : path
        Of the source, for messages.
    path : path
        Save file to write.
    wish : Wish
        What the file should be.
    arch : str, optional
        ggml's name of the architecture, where the source does not know it.
    force : bool
        Replace an existing file.
    progress : callable
        Called with the bytes written since the last call.

    Returns
    -------
    (Target, list of dict)
        What the file says, and one row a tensor: name, type, shape, bytes.

    Raises
    ------
    InputError
        The tensors do not make a cache that the engine could have; nothing is written then.
    UsageError
        A wish cannot be granted.
    """
    info = source.describe()
    tensors = source.tensors()
    extras = {}
    for name, values in tensors:
        if name.startswith("layers."):
            tensors = chain([(name, values)], tensors)
            break
        extras[name] = values
    contents = contents_of(Path(where), info, extras, arch)
    target = plan_target(Path(path), contents, info.provenance, wish)
    index = {layer: i for i, layer in enumerate(target.layers)}
    rows = []
    with SaveFileWriter(Path(path), target, force=force) as writer:
        for name, values in tensors:
            _, layer, side = name.split(".")
            if side not in ("k", "v"):
                continue
            written = writer.write(side, index[int(layer)], values)  # type: ignore[arg-type]
            progress(written)
            batch, heads, seq_len, head_dim = values.shape
            rows.append(
                {
                    "tensor": name,
                    "type": target.plans[side][index[int(layer)]].codec.id,  # type: ignore[index]
                    "batch": batch,
                    "heads": heads,
                    "seq_len": seq_len,
                    "head_dim": head_dim,
                    "bytes": written,
                }
            )
    return target, rows


def arch_of_model(
    model: str | os.PathLike[str],
    source: Source,
    where: str | os.PathLike[str],
    arch: str | None = None,
) -> str:
    """Architecture of the GGUF that will load the file.

    Raises
    ------
    InputError
        The tensors come from another model.
    """
    header, info = read_header(model), source.describe()
    known = info.provenance.get("config_sha256")
    if "envelope" in info.provenance and known not in (None, header.config_sha256):
        raise InputError(
            f"{os.fspath(where)}: comes from {info.provenance.get('model')}; {os.fspath(model)} is "
            f"{header.name} with other metadata"
        )
    layers = {spec.name.split(".")[1] for spec in info.tensors if spec.name.endswith(".k")}
    if len(layers) != sum(heads > 0 for heads in header.kv_heads):
        raise InputError(
            f"{os.fspath(where)}: {len(layers)} layers; {header.name} has {header.layers}"
        )
    if arch not in (None, header.arch):
        raise InputError(f"--arch {arch}: {os.fspath(model)} is a {header.arch} model")
    return header.arch
