"""What quantized K and V do to attention: one group of query heads over one KV head.

Scores, weights and outputs are computed twice, from K and V and from what they decode to. Keys
fall in two parts, the first tokens of the sequence (*sinks*) and the rest. Each part gives a
softmax of its own, and the two are joined by their log sums, so that an error in the sinks alone
and an error in the rest alone cost nothing more than both together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.metrics.attention_parts import F32, F64, Keys, Part, join, softmax
from tqcli.metrics.attention_stats import COLUMN, FIELDS, SCOPES, SIDES, AttentionStats, merged
from tqcli.metrics.causal import Ints, Span, tiles

SINKS = 4
# Values of one tile of scores: several such arrays stay in a core's cache.
TILE = 1 << 18


@dataclass(frozen=True)
class Scoring:
    """How a layer turns queries and keys into scores.

    Attributes
    ----------
    scale : float
        Factor of every dot product.
    softcap : float or None
        Scores become ``softcap * tanh(score / softcap)``.
    sinks : int
        Tokens at the start of each sequence that are reported by themselves.
    """

    scale: float
    softcap: float | None = None
    sinks: int = SINKS


def attend(
    queries: NDArray[Any], keys: Keys, span: Span, positions: Ints, scoring: Scoring, key: int
) -> AttentionStats:
    """Measure the queries that share one KV head.

    Parameters
    ----------
    queries : array, shape (heads, positions, head_dim)
    keys : Keys
        Of all tokens of the sequence.
    span : Span
    positions : int array, shape (positions,)
        Ascending positions of the queries in the sequence.
    scoring : Scoring
    key : int
        Names the sequence in the accumulator.
    """
    parts = []
    for tile in tiles(span, positions, queries.shape[0], TILE):
        scaled = queries[:, tile].astype(np.float32) * np.float32(scoring.scale)
        table, divergences = _measure(scaled, keys, span, positions[tile], scoring)
        parts.append(AttentionStats.of(key, positions[tile], table, divergences))
    return merged(parts)


def _measure(q: F32, keys: Keys, span: Span, positions: Ints, scoring: Scoring) -> tuple[F64, F64]:
    first, last = span.keys(positions)
    edge = min(max(scoring.sinks, first), last)
    cuts = ((first, edge), (edge, last))
    sink, rest = (
        softmax(q, keys, a, b, span.hidden(positions, a, b), scoring.softcap) for a, b in cuts
    )
    heads, count, _ = q.shape
    seen = np.tile(span.seen(positions), heads)
    base = join(sink, rest, (0, 0), (0, 0))
    rows: dict[str, NDArray[Any]] = {
        "queries": np.ones(heads * count),
        "pairs": seen,
        "signal": _energy(base.out),
    }
    divergences = np.empty((len(SCOPES), heads * count))
    for at, scope in enumerate(SCOPES):
        on = (int(scope != "rest"), int(scope != "sinks"))
        rows[f"score_{scope}"] = _spread(sink, rest, on, seen)
        new = {
            "k": join(sink, rest, on, (0, 0)),
            "v": join(sink, rest, (0, 0), on),
            "kv": join(sink, rest, on, on),
        }
        drift = on[0] * base.sink_weight * sink.drift + on[1] * (1 - base.sink_weight) * rest.drift
        # log W - log W' is (log sum' - log sum) - change; less than nothing is rounding.
        divergences[at] = np.maximum(new["k"].log_sum - base.log_sum - drift, 0)
        rows[f"kl_{scope}"] = divergences[at]
        rows[f"top_{scope}"] = new["k"].top_key == base.top_key
        for side in SIDES:
            rows[f"{side}_{scope}"] = _energy(new[side].out - base.out)
    table = np.empty((count, len(FIELDS)))
    for name, values in rows.items():
        table[:, COLUMN[name]] = values.reshape(heads, count).sum(axis=0)
    return table, divergences


def _spread(sink: Part, rest: Part, on: tuple[int, int], seen: Ints) -> F64:
    """Sum of squared changes of score about their mean over the keys that each query sees."""
    change, square = np.zeros(seen.size), np.zeros(seen.size)
    for part, use in zip((sink, rest), on, strict=True):
        if not use:
            continue
        # What all changes share spreads nothing, unless the keys of one part alone are changed.
        shared = np.zeros(seen.size) if all(on) else part.common
        change += part.change + part.seen * shared
        square += part.change_square + (2 * part.change + part.seen * shared) * shared
    return np.maximum(square - change**2 / seen, 0)


def _energy(rows: F32) -> F64:
    energy: F64 = np.einsum("ij,ij->i", rows, rows).astype(np.float64)
    return energy
