"""Softmax over some of the keys, before and after quantization, and how two such parts join."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.metrics.causal import Ints, Mask

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Keys:
    """One KV head of one sequence, with float32 arrays of ``(tokens, values)``.

    Attributes
    ----------
    k : K, less a vector common to all keys unless there is a softcap
    k_error : decoded K minus K, less ``common``
    common : what the errors of all keys share, ``(head_dim,)``
    values : V and decoded V side by side, ``(tokens, 2 * head_dim)``
    """

    k: F32
    k_error: F32
    common: F32
    values: F32

    @classmethod
    def of(
        cls,
        k: NDArray[Any],
        k_decoded: NDArray[Any],
        v: NDArray[Any],
        v_decoded: NDArray[Any],
        *,
        shift: bool = True,
        project: F64 | None = None,
    ) -> Keys:
        """Prepare K and V of shape ``(tokens, head_dim)``.

        Parameters
        ----------
        shift : bool
            Take their means from K and from its error. They move all scores of a query alike,
            which softmax does not see, and float32 stays exact where keys share a large offset.
        project : (head_dim, n) array, optional
            V is measured after this matrix.
        """
        wide, error = k.astype(np.float64), k_decoded.astype(np.float64)
        error -= wide
        common = np.zeros(wide.shape[1])
        if shift and wide.size:
            wide -= wide.mean(axis=0)
            common = error.mean(axis=0)
            error -= common
        both = np.stack([v, v_decoded]).astype(np.float64)
        if project is not None:
            both = both @ project
        values = np.concatenate([both[0], both[1]], axis=1)
        return cls(*(a.astype(np.float32) for a in (wide, error, common, values)))


@dataclass(frozen=True, eq=False)
class Part:
    """Softmax over some of the keys, from K (index 0) and from decoded K (index 1).

    All arrays have a row per query. ``out[i][j]`` is the mean of V (j = 0) or decoded V (j = 1)
    under the weights of i; ``drift`` the mean change of score under the weights of 0. A change is
    ``common`` plus what ``change`` and ``change_square`` are sums of, over ``seen`` keys.
    """

    log_sum: tuple[F64, F64]
    top: tuple[F64, F64]
    top_key: tuple[Ints, Ints]
    out: tuple[tuple[F32, F32], tuple[F32, F32]]
    drift: F64
    seen: Ints
    common: F64
    change: F64
    change_square: F64


def softmax(
    q: F32, keys: Keys, first: int, last: int, hidden: Mask | None, softcap: float | None
) -> Part:
    """Attend to keys `first` to `last` with queries ``(heads, positions, head_dim)``."""
    heads, count, dim = q.shape
    rows = heads * count
    if first == last:
        return _nothing(rows, keys.values.shape[1] // 2)
    seen = np.full((heads, count), last - first)
    flat = q.reshape(rows, dim)
    score = flat @ keys.k[first:last].T  # (rows, keys)
    change = flat @ keys.k_error[first:last].T
    common = (flat @ keys.common).astype(np.float64)
    if softcap is not None:
        cap = np.float32(softcap)
        change += score
        change = cap * np.tanh(change / cap)
        score = cap * np.tanh(score / cap)
        change -= score
    if hidden is not None:
        score.reshape(heads, count, -1)[:, hidden] = -np.inf
        change.reshape(heads, count, -1)[:, hidden] = 0
        seen -= hidden.sum(axis=1)
    moved = score + change
    total, square = _row_sums(change), np.einsum("ij,ij->i", change, change)
    log_sum: list[F64] = []
    top: list[F64] = []
    top_key: list[Ints] = []
    out: list[tuple[F32, F32]] = []
    drift = np.zeros(rows)
    for version, values in enumerate((score, moved)):
        best = values.argmax(axis=1)
        peak = values[np.arange(rows), best]
        safe = np.where(np.isfinite(peak), peak, np.float32(0))  # a query may see no key here
        values -= safe[:, None]
        np.exp(values, out=values)
        mass = _row_sums(values)
        divisor = np.where(mass > 0, mass, 1.0)
        if version == 0:
            drift = np.einsum("ij,ij->i", values, change) / divisor
        mean = np.asarray(values @ keys.values[first:last], np.float32)
        mean /= divisor[:, None].astype(np.float32)
        with np.errstate(divide="ignore"):
            log_sum.append(np.log(mass) + safe)
        top.append(peak.astype(np.float64))
        top_key.append(best.astype(np.int64) + first)
        out.append((mean[:, : mean.shape[1] // 2], mean[:, mean.shape[1] // 2 :]))
    return Part(
        (log_sum[0], log_sum[1] + common),
        (top[0], top[1] + common),
        (top_key[0], top_key[1]),
        (out[0], out[1]),
        drift + common,
        seen.ravel(),
        common,
        total,
        square.astype(np.float64),
    )


def _nothing(rows: int, dim: int) -> Part:
    none, zero = np.full(rows, -np.inf), np.zeros(rows)
    out, key = np.zeros((rows, dim), np.float32), np.zeros(rows, np.int64)
    outs = ((out, out), (out, out))
    return Part((none, none), (none, none), (key, key), outs, zero, key, zero, zero, zero)


def _row_sums(values: F32) -> F64:
    sums: F64 = values.sum(axis=1).astype(np.float64)
    return sums


@dataclass(frozen=True, eq=False)
class Joined:
    """Attention over all keys, a row per query."""

    log_sum: F64
    sink_weight: F64
    top_key: Ints
    out: F32


def join(sink: Part, rest: Part, scores: tuple[int, int], values: tuple[int, int]) -> Joined:
    """Attention over both parts, each with its own choice of original (0) or decoded (1)."""
    a, b = sink.log_sum[scores[0]], rest.log_sum[scores[1]]
    log_sum = np.logaddexp(a, b)
    weight = np.exp(a - log_sum)
    share = weight.astype(np.float32)[:, None]
    out = share * sink.out[scores[0]][values[0]] + (1 - share) * rest.out[scores[1]][values[1]]
    first = sink.top[scores[0]] >= rest.top[scores[1]]
    top_key = np.where(first, sink.top_key[scores[0]], rest.top_key[scores[1]])
    return Joined(log_sum, weight, top_key, out)
