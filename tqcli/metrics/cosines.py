"""Cosines as counts: percentiles of any number of vectors in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tqcli.kernels import stats

F64 = NDArray[np.float64]
# Keys that may wait to be counted: enough that counting costs little, few beside a tensor.
_WAITING = 1 << 16


class CosineCounts:
    """How many vectors have a cosine in each of many narrow steps.

    A cosine is counted by its distance from 1, in steps of 2^-20 from a distance of 2^-8 on, and
    of at most a 4,096th of the distance below. A vector whose rank is asked for is taken to stand
    in its step as if those in the step were spread evenly, so that no percentile is off by more
    than 2^-20 (9.5e-7); the smallest and the largest cosine are exact. There are 2.3 million
    steps; only those that occur are kept (tens of thousands for one type).
    """

    def __init__(self) -> None:
        self._keys = np.empty(0, np.uint32)  # ascending
        self._counts = np.empty(0, np.int64)
        self._waiting: list[NDArray[np.uint32]] = []
        self._room = _WAITING
        self.nearest = np.inf
        self.farthest = 0.0

    def add(self, keys: NDArray[np.uint32], nearest: float, farthest: float) -> None:
        """Count vectors by the keys that :func:`tqcli.kernels.stats.summarize` gave.

        Parameters
        ----------
        keys : uint32 array, shape (n,)
        nearest, farthest : float
            The smallest and the largest distance among them.
        """
        self.nearest, self.farthest = min(self.nearest, nearest), max(self.farthest, farthest)
        self._waiting.append(keys)
        self._room -= keys.size
        if self._room < 0:
            self._count()

    @classmethod
    def merged(cls, parts: Sequence[CosineCounts]) -> CosineCounts:
        """The counts of all parts, which stay as they are."""
        whole = cls()
        for part in parts:
            part._count()
            whole.nearest = min(whole.nearest, part.nearest)
            whole.farthest = max(whole.farthest, part.farthest)
        if parts:
            whole._keys, whole._counts = _totals(
                np.concatenate([part._keys for part in parts]),
                np.concatenate([part._counts for part in parts]),
            )
        return whole

    def percentile(self, percent: float) -> float:
        """A percentile of the cosines, from the lower end, by linear interpolation.

        Parameters
        ----------
        percent : float
            0 to 100. There must be a vector.
        """
        self._count()
        ends = np.cumsum(self._counts)
        rank = percent / 100 * (int(ends[-1]) - 1)
        low = int(rank)
        high = min(low + 1, int(ends[-1]) - 1)
        first, second = (self._ranked(ends, place) for place in (low, high))
        return first + (second - first) * (rank - low)

    def _ranked(self, ends: NDArray[np.int64], rank: int) -> float:
        """The cosine of a rank from the lower end, so the distance of a rank from the upper."""
        last = int(ends[-1]) - 1
        if rank in (0, last):
            return 1 - (self.farthest if rank == 0 else self.nearest)
        place = int(np.searchsorted(ends, last - rank, side="right"))
        count = int(self._counts[place])
        before = last - rank - (int(ends[place]) - count)
        low, high = (float(edge[0]) for edge in stats.bounds(self._keys[place : place + 1]))
        distance = low + (high - low) * (before + 0.5) / count
        return 1 - min(max(distance, self.nearest), self.farthest)

    def _count(self) -> None:
        if self._waiting:
            waiting = np.concatenate(self._waiting)
            self._keys, self._counts = _totals(
                np.concatenate([self._keys, waiting]),
                np.concatenate([self._counts, np.ones(waiting.size, np.int64)]),
            )
            self._waiting, self._room = [], _WAITING


def _totals(
    keys: NDArray[np.uint32], counts: NDArray[np.int64]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Each key once, ascending, with the sum of its counts."""
    order = np.argsort(keys)
    keys = keys[order]
    first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if keys.size else order
    return keys[first], np.add.reduceat(counts[order], first) if keys.size else counts
