"""A dump against what a cache format makes of it: measures per layer, side and head, and pooled."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.codecs import Codec
from tqcli.errors import InputError
from tqcli.kv.container import PIECE_BYTES
from tqcli.kv.dump import Dump, KVTensor
from tqcli.kv.packed import Packed, PackedTensor
from tqcli.metrics import OffsetStats, VectorStats, null_model, z_score
from tqcli.metrics.offset import MEASURES as OFFSET_MEASURES
from tqcli.pipeline.cachetype import CacheType
from tqcli.pipeline.pieces import (
    Cleaner,
    Nonfinite,
    Progress,
    by_head,
    decode_piece,
    encode_piece,
    no_progress,
    require_finite,
)
from tqcli.words import counted

# float64 copies of a piece are eight times its float16 bytes.
_PIECE_BYTES = PIECE_BYTES // 4
# The null model draws thousands of vectors whatever the file holds; no model has wider heads.
_MAX_NULL_DIM = 1024


@dataclass(eq=False)
class Stats:
    """All accumulators of one set of vectors."""

    vector: VectorStats = field(default_factory=VectorStats)
    offset: OffsetStats = field(default_factory=OffsetStats)

    def merge(self, other: Stats) -> Stats:
        """The accumulators of both."""
        return Stats(self.vector.merge(other.vector), self.offset.merge(other.offset))


@dataclass(frozen=True)
class Candidate:
    """What the dump is held against.

    Give either a pair of cache types, a packed cache, or a second dump.
    """

    k: CacheType | None = None
    v: CacheType | None = None
    packed: Packed | None = None
    dump: Dump | None = None


@dataclass(eq=False)
class Evaluation:
    """Accumulators by (layer, side, head), and the codec of each side of each layer."""

    stats: dict[tuple[int, str, int], Stats]
    codecs: dict[tuple[int, str], tuple[Codec, ...]]
    head_dims: dict[tuple[int, str], int]
    cleaner: Cleaner

    def __repr__(self) -> str:
        """``<evaluation of k, v of 4 layers>``."""
        sides = ", ".join(dict.fromkeys(side for _, side in self.codecs))
        layers = counted(len({layer for layer, _ in self.codecs}), "layer")
        return f"<evaluation of {sides} of {layers}>"

    def pooled(self, side: str) -> Stats:
        """All layers and heads of one side."""
        return _merged([s for (_, own, _), s in self.stats.items() if own == side])

    def rows(self, *, per_head: bool = False) -> list[dict[str, Any]]:
        """Measures as rows: each layer and side (and head), then ``all`` for each side."""
        rows = []
        for layer, side in self.codecs:
            heads = {h: s for (la, si, h), s in self.stats.items() if (la, si) == (layer, side)}
            rows.append(self._row(layer, side, None, _merged(list(heads.values()))))
            if per_head:
                rows += [self._row(layer, side, head, stats) for head, stats in heads.items()]
        sides = dict.fromkeys(side for _, side in self.codecs)
        return rows + [self._row(None, side, None, self.pooled(side)) for side in sides]

    def _row(self, layer: int | None, side: str, head: int | None, stats: Stats) -> dict[str, Any]:
        places = [p for p in self.codecs if p[1] == side and layer in (None, p[0])]
        made = [codec for p in places for codec in self.codecs[p]]
        dims = {self.head_dims[p] for p in places}
        row: dict[str, Any] = {
            "layer": "all" if layer is None else layer,
            "side": side,
            "head": head,
            "type": " ".join(dict.fromkeys(c.id for c in made)) or None,
            "bits_per_value": self._bits(places),
        }
        row |= stats.vector.measures()
        row |= stats.offset.measures() if side == "k" else dict.fromkeys(OFFSET_MEASURES)
        # The null model belongs to one codec and head_dim.
        null = None
        if len({str(c.config()) for c in made}) == 1 and len(dims) == 1:
            dim = dims.pop()
            null = null_model(made[0], dim) if dim <= _MAX_NULL_DIM else None
        for name in ("cosine_mean", "cosine_p1", "nmse"):
            row[f"null_{name}"] = None if null is None else null.measures[name]
        row["cosine_z"] = None if null is None else z_score(stats.vector, null)
        return row

    def _bits(self, places: list[tuple[int, str]]) -> float | None:
        if not all(self.codecs[p] for p in places):
            return None
        return float(np.mean([self.codecs[p][0].bits_per_value(self.head_dims[p]) for p in places]))


def _merged(parts: list[Stats]) -> Stats:
    total = Stats()
    for part in parts:
        total = total.merge(part)
    return total


def evaluate(
    dump: Dump,
    candidate: Candidate,
    *,
    only: Collection[tuple[int, str]] | None = None,
    nonfinite: Nonfinite = "error",
    progress: Progress = no_progress,
) -> Evaluation:
    """Measure what a candidate makes of K and V of a dump.

    Parameters
    ----------
    dump : Dump
        In the original domain.
    candidate : Candidate
    only : collection of (layer, side), optional
        Leave all other tensors out.
    nonfinite : {"error", "zero", "skip"}
    progress : callable
        Called with the bytes of the dump read since the last call.

    Raises
    ------
    InputError
        If the candidate does not fit the dump, or a value cannot be encoded.
    """
    if dump.domain != "original":
        raise InputError(f"{dump.path}: {dump.domain} domain; only an original dump is evaluated")
    result = Evaluation({}, {}, {}, Cleaner(nonfinite))
    for tensor in dump.kv():
        if only is not None and (tensor.layer, tensor.side) not in only:
            continue
        made, pairs = _pairs(dump, tensor, candidate, result.cleaner)
        result.codecs[tensor.layer, tensor.side] = made
        result.head_dims[tensor.layer, tensor.side] = tensor.shape[3]
        for first, x, decoded, keep in pairs:
            _add(result, tensor, first, x, decoded, keep)
            progress(x.shape[0] * x.shape[1] * tensor.dtype.itemsize)
    return result


def _add(
    result: Evaluation,
    tensor: KVTensor,
    first: int,
    x: NDArray[Any],
    decoded: NDArray[Any],
    keep: NDArray[np.bool_] | None,
) -> None:
    _, heads, seq_len, _ = tensor.shape
    for row, at, part in by_head(first, x, heads, seq_len):
        window = slice(at - first, at - first + part.shape[0])
        other = decoded[window]
        if keep is not None:
            part, other = part[keep[window]], other[keep[window]]
        key = (tensor.layer, tensor.side, row % heads)
        stats = result.stats.setdefault(key, Stats())
        stats.vector.add(part, other)
        if tensor.side == "k":
            stats.offset.add((tensor.layer, row), part, other)


Pairs = Iterator[tuple[int, NDArray[Any], NDArray[Any], NDArray[np.bool_] | None]]


def _pairs(
    dump: Dump, tensor: KVTensor, candidate: Candidate, cleaner: Cleaner
) -> tuple[tuple[Codec, ...], Pairs]:
    """The codecs of a tensor, and pieces of it beside what came back."""
    if candidate.packed is not None:
        other = candidate.packed.get(tensor.layer, tensor.side)
        _require_match(dump, tensor, candidate.packed.path, other)
        assert other is not None
        return other.codecs, _against_packed(tensor, candidate.packed, other, cleaner)
    if candidate.dump is not None:
        twin = candidate.dump.get(tensor.layer, tensor.side)
        _require_match(dump, tensor, candidate.dump.path, twin)
        assert twin is not None
        return (), _against_dump(tensor, twin, cleaner)
    chosen = candidate.k if tensor.side == "k" else candidate.v
    if chosen is None:
        raise InputError(f"{dump.path}: no type for {tensor.side}; pass -ctk and -ctv")
    made = chosen.codecs_for(tensor)
    return made, _against_type(dump, tensor, made, cleaner)


def _require_match(
    dump: Dump, tensor: KVTensor, path: str, other: KVTensor | PackedTensor | None
) -> None:
    if other is None:
        raise InputError(f"{path}: has no {tensor.name}, which {dump.path} has; give its own pair")
    if other.shape != tensor.shape:
        raise InputError(
            f"{path}: {tensor.name} has shape {other.shape}, {dump.path} has {tensor.shape}; "
            "they must be equal"
        )


def _against_type(dump: Dump, tensor: KVTensor, made: tuple[Codec, ...], cleaner: Cleaner) -> Pairs:
    where, head_dim = f"{dump.path}: {tensor.name}", tensor.shape[3]
    for first, piece in tensor.stored.pieces(limit=_PIECE_BYTES):
        cleaned, keep = cleaner.clean(piece)
        blocks = encode_piece(dump, tensor, made, first, cleaned)
        decoded = decode_piece(
            where, made, tensor.shape, first, blocks, lambda c, b: c.decode(b, head_dim)
        )
        yield first, cleaned, decoded, keep


def _against_packed(
    tensor: KVTensor, packed: Packed, other: PackedTensor, cleaner: Cleaner
) -> Pairs:
    where, head_dim = f"{packed.path}: {other.name}", tensor.shape[3]
    blocks_shape = other.stored.entry.shape[3:]
    count = max(_PIECE_BYTES // (head_dim * tensor.dtype.itemsize), 1)
    mine = tensor.stored.pieces(limit=count * head_dim * tensor.dtype.itemsize)
    theirs = other.stored.pieces(axes=2, limit=count * int(np.prod(blocks_shape)))
    for (first, x), (_, flat) in zip(mine, theirs, strict=True):
        blocks = flat.reshape(-1, *blocks_shape)
        decoded = decode_piece(
            where, other.codecs, other.shape, first, blocks, lambda c, b: c.decode(b, head_dim)
        )
        cleaned, keep = cleaner.clean(x)
        require_finite(tensor, first, cleaned)
        yield first, cleaned, decoded, keep


def _against_dump(tensor: KVTensor, twin: KVTensor, cleaner: Cleaner) -> Pairs:
    count = max(_PIECE_BYTES // (tensor.shape[3] * tensor.dtype.itemsize), 1)
    mine = tensor.stored.pieces(limit=count * tensor.shape[3] * tensor.dtype.itemsize)
    theirs = twin.stored.pieces(limit=count * tensor.shape[3] * twin.dtype.itemsize)
    for (first, x), (_, decoded) in zip(mine, theirs, strict=True):
        cleaned, keep = cleaner.clean(x)
        require_finite(tensor, first, cleaned)
        require_finite(twin, first, decoded)
        yield first, cleaned, decoded, keep
