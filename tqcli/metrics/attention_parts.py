"""Softmax over some of the keys, and what an error of these keys changes about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.metrics.attention_keys import F32, F64, Error, Keys
from tqcli.metrics.causal import Ints, Mask


class Scratch:
    """Float32 arrays that are written anew for every tile, so that their memory stays in cache."""

    def __init__(self, size: int) -> None:
        self._size, self._flat = size, dict[str, F32]()

    def take(self, name: str, rows: int, columns: int) -> F32:
        """An array of that shape; the one taken under this name before is no longer valid."""
        flat = self._flat.get(name)
        if flat is None or flat.size < rows * columns:
            flat = self._flat[name] = np.empty(max(self._size, rows * columns), np.float32)
        return flat[: rows * columns].reshape(rows, columns)


@dataclass(frozen=True, eq=False)
class Peak:
    """The sum of a softmax and its largest score, a row per query.

    Attributes
    ----------
    log_sum : of the exponentials of the scores; -inf where a query sees none of the keys
    top : largest score
    top_key : its key, counted from the start of the sequence
    """

    log_sum: F64
    top: F64
    top_key: Ints


@dataclass(frozen=True, eq=False)
class Part:
    """Softmax of the original scores over keys `first` to `last`.

    Attributes
    ----------
    peak : Peak
    out : (rows, n), mean of V under the weights
    seen : (rows,), keys that each query sees
    hidden : (positions, keys) or None, keys that it does not see
    score : (rows, keys), less the largest of each row; -inf where hidden
    weight : (rows, keys), sums to 1 in each row
    raw : (rows, keys), scores before the softcap, if there is one
    """

    first: int
    last: int
    peak: Peak
    out: F32
    seen: Ints
    hidden: Mask | None
    score: F32
    weight: F32
    raw: F32


@dataclass(frozen=True, eq=False)
class Change:
    """What an error of the keys of a :class:`Part`, and of their V, does; a row per query.

    Attributes
    ----------
    peak : Peak
        Of the changed scores.
    drift : mean change of score under the original weights
    common, total, square
        A change of score is ``common`` plus what ``total`` and ``square`` are sums of.
    out_k : (rows, n) or None, change of the mean of V for the change of the weights
    out_v : (rows, n) or None, mean of the error of V under the original weights
    out_kv : (rows, n) or None, the same under the changed weights
    """

    peak: Peak
    drift: F64
    common: F64
    total: F64
    square: F64
    out_k: F32 | None
    out_v: F32 | None
    out_kv: F32 | None


def softmax(
    q: F32,
    keys: Keys,
    first: int,
    last: int,
    hidden: Mask | None,
    softcap: float | None,
    scratch: Scratch,
) -> Part:
    """Attend to keys `first` to `last` with queries ``(heads, positions, head_dim)``."""
    heads, count, dim = q.shape
    rows = heads * count
    score, weight = (scratch.take(name, rows, last - first) for name in ("score", "weight"))
    seen = np.full((heads, count), last - first)
    if hidden is not None:
        seen -= hidden.sum(axis=1)
    if first == last:
        nothing = Peak(np.full(rows, -np.inf), np.full(rows, -np.inf), np.zeros(rows, np.int64))
        out = np.zeros((rows, keys.v.shape[1]), np.float32)
        return Part(first, last, nothing, out, seen.ravel(), hidden, score, weight, score)
    raw = score if softcap is None else scratch.take("raw", rows, last - first)
    np.matmul(q.reshape(rows, dim), keys.k[first:last].T, out=raw)
    if softcap is not None:
        _cap(raw, softcap, score)
    _fill(score, hidden, heads, -np.inf)
    top, top_key = _largest(score)
    _exponentials(score, top, weight)
    peak = Peak(_normalize(weight) + top, top, top_key + first)
    out = np.matmul(weight, keys.v[first:last])
    return Part(first, last, peak, out, seen.ravel(), hidden, score, weight, raw)


def change(
    q: F32, part: Part, values: F32, error: Error, softcap: float | None, scratch: Scratch
) -> Change:
    """What `error` of the keys of a part does, with `values` their original V."""
    heads, _, dim = q.shape
    rows, columns = part.score.shape
    zero = np.zeros(rows)
    out_v = None if error.v is None or not columns else np.matmul(part.weight, error.v)
    if error.k is None or not columns:
        return Change(part.peak, zero, zero, zero, zero, None, out_v, out_v)
    flat = q.reshape(rows, dim)
    moves, new = (scratch.take(name, rows, columns) for name in ("moves", "new"))
    np.matmul(flat, error.k.T, out=moves)
    if softcap is not None:
        moves += part.raw
        _cap(moves, softcap, moves)
        moves -= _cap(part.raw, softcap, new)
    common = flat.astype(np.float64) @ error.common
    _fill(moves, part.hidden, heads, 0)
    total = moves.sum(axis=1).astype(np.float64)
    square, drift = (np.einsum("ij,ij->i", a, moves) for a in (moves, part.weight))
    np.add(part.score, moves, out=new)
    top, top_key = _largest(new)
    _exponentials(new, top, new)
    top = top + part.peak.top + common
    peak = Peak(_normalize(new) + top, top, top_key + part.first)
    new -= part.weight
    out_k = np.matmul(new, values)
    out_kv = out_v
    if error.v is not None:
        out_kv = np.matmul(new, error.v)
        out_kv += out_v
    return Change(
        peak, drift + common, common, total, square.astype(np.float64), out_k, out_v, out_kv
    )


def _cap(values: F32, softcap: float, out: F32) -> F32:
    cap = np.float32(softcap)
    np.divide(values, cap, out=out)
    np.tanh(out, out=out)
    out *= cap
    return out


def _fill(values: F32, hidden: Mask | None, heads: int, value: float) -> None:
    if hidden is not None:
        np.copyto(values.reshape(heads, *hidden.shape), np.float32(value), where=hidden)


def _largest(values: F32) -> tuple[F64, Ints]:
    """The largest of each row and where it stands."""
    at = values.argmax(axis=1)
    return values[np.arange(len(values)), at].astype(np.float64), at.astype(np.int64)


def _exponentials(values: F32, top: F64, out: F32) -> None:
    """Take the largest from each row, and write the exponentials; a row of -inf gives zeros."""
    values -= np.where(np.isfinite(top), top, 0)[:, None].astype(np.float32)
    np.exp(values, out=out)


def _normalize(weight: F32) -> F64:
    """Divide each row by its sum, in place; the logarithms of the sums, -inf for rows of zeros."""
    mass: NDArray[Any] = weight.sum(axis=1)
    weight *= (1 / np.where(mass > 0, mass, np.float32(1)))[:, None]
    with np.errstate(divide="ignore"):
        logarithms: F64 = np.log(mass.astype(np.float64))
    return logarithms
