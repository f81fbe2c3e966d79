"""What quantized K and V do to attention: one group of query heads over one KV head.

Scores, weights and outputs come from K and V once; of every candidate, the changes of scores,
weights and outputs come from its errors, so that no error is no change, and what is small keeps
its digits. Keys fall in two parts, the first tokens of the sequence (*sinks*) and the rest. Each
part gives a softmax of its own, and the two are joined by their log sums, so that an error in the
sinks alone and an error in the rest alone cost nothing more than both together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.metrics.attention_join import Original
from tqcli.metrics.attention_keys import F32, Error, Keys
from tqcli.metrics.attention_parts import Change, Scratch, change, softmax
from tqcli.metrics.attention_stats import AttentionStats, merged
from tqcli.metrics.causal import Ints, Span, tiles

SINKS = 4
# Values of one tile of scores: large enough to hide what a NumPy call costs, and cached at that.
TILE = 1 << 19


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
    queries: NDArray[Any],
    keys: Keys,
    errors: Sequence[tuple[Error, Error]],
    span: Span,
    positions: Ints,
    scoring: Scoring,
    key: int,
) -> list[AttentionStats]:
    """Measure the queries that share one KV head, for one or several candidates.

    The figures of a candidate do not depend on which others are measured with it.

    Parameters
    ----------
    queries : array, shape (heads, positions, head_dim)
    keys : Keys
        Of all tokens of the sequence.
    errors : sequence of (Error, Error)
        What :meth:`Error.of` gave for each candidate, cut at ``scoring.sinks``.
    span : Span
    positions : int array, shape (positions,)
        Ascending positions of the queries in the sequence.
    scoring : Scoring
    key : int
        Names the sequence in the accumulator.

    Returns
    -------
    list of AttentionStats
        One for each of `errors`.
    """
    parts: list[list[AttentionStats]] = [[] for _ in errors]
    scratch = (Scratch(0), Scratch(TILE))
    for tile in tiles(span, positions, queries.shape[0], TILE):
        scaled = queries[:, tile].astype(np.float32) * np.float32(scoring.scale)
        original = _original(scaled, keys, span, positions[tile], scoring, scratch)
        for part, error in zip(parts, errors, strict=True):
            changes = _changes(scaled, keys, original, error, scoring, scratch)
            table, divergences = original.measure(changes)
            part.append(AttentionStats.of(key, positions[tile], table, divergences))
    return [merged(part) for part in parts]


def _original(
    q: F32,
    keys: Keys,
    span: Span,
    positions: Ints,
    scoring: Scoring,
    scratch: tuple[Scratch, Scratch],
) -> Original:
    """Softmax over the sinks and over the rest."""
    first, last = span.keys(positions)
    edge = min(max(scoring.sinks, first), last)
    sink, rest = (
        softmax(q, keys, a, b, span.hidden(positions, a, b), scoring.softcap, room)
        for (a, b), room in zip(((first, edge), (edge, last)), scratch, strict=True)
    )
    return Original(sink, rest, q.shape[:2])


def _changes(
    q: F32,
    keys: Keys,
    original: Original,
    error: tuple[Error, Error],
    scoring: Scoring,
    scratch: tuple[Scratch, Scratch],
) -> tuple[Change, Change]:
    """What the errors of the sinks, and of the rest, do to their own part."""
    sink, rest = (
        change(
            q,
            part,
            keys.v[part.first : part.last],
            own.of_keys(part.first - start, part.last - start),
            scoring.softcap,
            room,
        )
        for part, own, start, room in zip(
            original.parts, error, (0, scoring.sinks), scratch, strict=True
        )
    )
    return sink, rest
