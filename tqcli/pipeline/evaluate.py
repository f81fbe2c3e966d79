"""A dump against what a cache format makes of it: measures per layer, side and head, and pooled."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tqcli.codecs import Codec
from tqcli.errors import InputError
from tqcli.kernels import choose
from tqcli.kv.dump import Dump, KVTensor
from tqcli.kv.packed import Packed, PackedTensor
from tqcli.metrics import Stats, null_model, z_score
from tqcli.pipeline.cachetype import CacheType
from tqcli.pipeline.decoded import Source, from_dump, from_packed, from_type
from tqcli.pipeline.measure import measure
from tqcli.pipeline.pieces import Cleaner, Nonfinite, Progress, no_progress
from tqcli.words import counted
from tqcli.workers import run, serial

# The null model draws thousands of vectors whatever the file holds; no model has wider heads.
_MAX_NULL_DIM = 1024


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
    """Figures by (layer, side, head), and the codec of each side of each layer.

    Attributes
    ----------
    stats : dict
        By layer, side and head; of all heads under None unless heads were kept apart.
    codecs : dict
        By layer and side; empty for a second dump.
    head_dims : dict
        By layer and side.
    worse : dict
        By layer and side, how many vectors the first candidate decodes with less error.
    cleaner : Cleaner
    """

    stats: dict[tuple[int, str, int | None], Stats]
    codecs: dict[tuple[int, str], tuple[Codec, ...]]
    head_dims: dict[tuple[int, str], int]
    worse: dict[tuple[int, str], int]
    cleaner: Cleaner

    def __repr__(self) -> str:
        """``<evaluation of k, v of 4 layers>``."""
        sides = ", ".join(dict.fromkeys(side for _, side in self.codecs))
        layers = counted(len({layer for layer, _ in self.codecs}), "layer")
        return f"<evaluation of {sides} of {layers}>"

    def pooled(self, side: str) -> Stats:
        """All layers and heads of one side."""
        return Stats.merged(s for (_, own, _), s in self.stats.items() if own == side)

    def rows(self) -> list[dict[str, Any]]:
        """Measures as rows: each layer and side (and head), then ``all`` for each side."""
        rows = []
        for layer, side in self.codecs:
            heads = {h: s for (la, si, h), s in self.stats.items() if (la, si) == (layer, side)}
            whole = heads.pop(None, None) or Stats.merged(heads.values())
            rows.append(self._row(layer, side, None, whole))
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
        row |= stats.measures() | stats.offset_measures()
        # The null model belongs to one codec and head_dim.
        null = None
        if len({str(c.config()) for c in made}) == 1 and len(dims) == 1:
            dim = dims.pop()
            null = null_model(made[0], dim) if dim <= _MAX_NULL_DIM else None
        for name in ("cosine_mean", "cosine_p1", "nmse"):
            row[f"null_{name}"] = None if null is None else null.measures[name]
        row["cosine_z"] = None if null is None else z_score(stats, null)
        return row

    def _bits(self, places: list[tuple[int, str]]) -> float | None:
        if not all(self.codecs[p] for p in places):
            return None
        return float(np.mean([self.codecs[p][0].bits_per_value(self.head_dims[p]) for p in places]))


def evaluate(
    dump: Dump,
    candidate: Candidate,
    *,
    only: Collection[tuple[int, str]] | None = None,
    per_head: bool = False,
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
    per_head : bool
        Keep the figures of each head apart.
    nonfinite : {"error", "zero", "skip"}
    progress : callable
        Called with the bytes of the dump read since the last call.

    Raises
    ------
    InputError
        If the candidate does not fit the dump, or a value cannot be encoded.
    """
    (result,) = evaluate_all(
        dump, [candidate], only=only, per_head=per_head, nonfinite=nonfinite, progress=progress
    )
    return result


def evaluate_all(
    dump: Dump,
    candidates: Sequence[Candidate],
    *,
    only: Collection[tuple[int, str]] | None = None,
    per_head: bool = False,
    nonfinite: Nonfinite = "error",
    progress: Progress = no_progress,
) -> list[Evaluation]:
    """Measure what each of several candidates makes of a dump, which is read once.

    Parameters are those of :func:`evaluate`; `progress` is called with the bytes read, times the
    number of candidates. Tensors are measured on as many threads as kernels may use, and no
    figure depends on their number.
    """
    if dump.domain != "original":
        raise InputError(f"{dump.path}: {dump.domain} domain; only an original dump is evaluated")
    tensors = [t for t in dump.kv() if only is None or (t.layer, t.side) in only]
    sources = [[_source(dump, tensor, one) for one in candidates] for tensor in tensors]
    cleaners = [Cleaner(nonfinite) for _ in tensors]
    progress = serial(progress)
    jobs = [
        partial(measure, *parts, progress, per_head=per_head)
        for parts in zip(tensors, sources, cleaners, strict=True)
    ]
    found = run(jobs, choose.threads())
    cleaner = Cleaner(
        nonfinite, sum(one.zeroed for one in cleaners), sum(one.skipped for one in cleaners)
    )
    results = [Evaluation({}, {}, {}, {}, cleaner) for _ in candidates]
    for tensor, own, measured in zip(tensors, sources, found, strict=True):
        place = (tensor.layer, tensor.side)
        for result, source, one in zip(results, own, measured, strict=True):
            result.stats |= {(*place, head): stats for head, stats in one.stats.items()}
            result.codecs[place] = source.codecs
            result.head_dims[place] = tensor.shape[3]
            result.worse[place] = one.worse
    return results


def _source(dump: Dump, tensor: KVTensor, candidate: Candidate) -> Source:
    """Where a candidate's version of a tensor comes from; checked before anything is read."""
    if candidate.packed is not None:
        other = candidate.packed.get(tensor.layer, tensor.side)
        _require_match(dump, tensor, candidate.packed.path, other)
        assert other is not None
        return from_packed(candidate.packed.path, other)
    if candidate.dump is not None:
        twin = candidate.dump.get(tensor.layer, tensor.side)
        _require_match(dump, tensor, candidate.dump.path, twin)
        assert twin is not None
        return from_dump(twin)
    chosen = candidate.k if tensor.side == "k" else candidate.v
    if chosen is None:
        raise InputError(f"{dump.path}: no type for {tensor.side}; pass -ctk and -ctv")
    return from_type(dump, tensor, chosen.codecs_for(tensor))


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
