"""Which keys a query sees: causal order, sequences that follow each other, sliding windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Span:
    """One sequence on the token axis of a tensor.

    Attributes
    ----------
    start, stop : int
        Its tokens; none of another sequence is seen.
    window : int or None
        Keys that a query sees, its own included; None sees all before it.
    """

    start: int
    stop: int
    window: int | None = None

    @property
    def length(self) -> int:
        """Tokens."""
        return self.stop - self.start

    def seen(self, positions: Ints) -> Ints:
        """How many keys the queries at `positions` (from the start of the sequence) see."""
        seen = positions + 1
        return seen if self.window is None else np.minimum(seen, self.window)

    def keys(self, positions: Ints) -> tuple[int, int]:
        """First and last (exclusive) key position that any of the ascending `positions` sees."""
        first = 0
        if self.window is not None:
            first = max(int(positions[0]) - self.window + 1, 0)
        return first, int(positions[-1]) + 1

    def hidden(self, positions: Ints, first: int, last: int) -> Mask | None:
        """Keys `first` to `last` that a query must not see, ``(positions, keys)``; None: no key.

        Examples
        --------
        >>> Span(0, 4, window=2).hidden(np.array([1, 3]), 0, 4)
        array([[False, False,  True,  True],
               [ True,  True, False, False]])
        """
        late = last - 1 > positions[0]
        early = self.window is not None and first <= positions[-1] - self.window
        if not (late or early):
            return None
        keys = np.arange(first, last)
        hidden: Mask = keys > positions[:, None]
        if self.window is not None:
            hidden |= keys <= positions[:, None] - self.window
        return hidden

    def recent(self, positions: Ints, first: int, last: int, tail: int) -> Mask | None:
        """Keys `first` to `last` that stand among the `tail` up to a query's own; None: no key.

        Examples
        --------
        >>> Span(0, 4).recent(np.array([1, 3]), 0, 4, 2)
        array([[ True,  True,  True,  True],
               [False, False,  True,  True]])
        """
        if not tail or last - 1 <= positions[0] - tail:
            return None
        recent: Mask = np.arange(first, last) > positions[:, None] - tail
        return recent


def spans(lengths: list[int], window: int | None) -> list[Span]:
    """Sequences of these lengths one after the other.

    Examples
    --------
    >>> spans([3, 2], None)
    [Span(start=0, stop=3, window=None), Span(start=3, stop=5, window=None)]
    """
    edges = np.cumsum([0, *lengths]).tolist()
    return [Span(a, b, window) for a, b in pairwise(edges)]


def sample_positions(total: int, wanted: int | None, seed: int) -> Ints:
    """Ascending positions out of `total`: all of them, or `wanted` at random without repetition."""
    if wanted is None or wanted >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, wanted, replace=False))


def tiles(span: Span, positions: Ints, heads: int, limit: int) -> Iterator[slice]:
    """Cut ascending `positions` so that a tile holds about `limit` pairs of a query and a key."""
    if positions.size:
        keys = int(span.seen(positions[-1:])[0])
        step = max(limit // (heads * keys), 1)
        for start in range(0, positions.size, step):
            yield slice(start, start + step)
