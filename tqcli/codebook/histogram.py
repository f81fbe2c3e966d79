"""Lloyd-Max from data, through a histogram that is mergeable across tensors, files and machines."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tqcli.codebook.table import Codebook, midpoints
from tqcli.errors import InputError

F64 = NDArray[np.float64]

BINS = 1 << 16
# Bins cover +-12 standard deviations of a rotated value. A unit vector of 128 reaches 11.3.
_REACH = 12.0
TOLERANCE = 1e-12
_MAX_STEPS = 100_000


@dataclass(eq=False)
class Histogram:
    """Weight, first and second moment of rotated values in fixed bins.

    Values are in units of their standard deviation, ``y * sqrt(group)`` for a rotated unit
    vector ``y``. Bins are the same for everyone, so ``merge`` is associative up to the rounding
    of float64 sums, and no values need to be kept.
    """

    weight: F64 = field(default_factory=lambda: np.zeros(BINS))
    moment: F64 = field(default_factory=lambda: np.zeros(BINS))
    square: F64 = field(default_factory=lambda: np.zeros(BINS))

    def add(self, values: NDArray[np.float32], weights: NDArray[np.float32] | None = None) -> None:
        """Count `values` (any shape); `weights`, if given, has the same shape."""
        flat = values.reshape(-1).astype(np.float64)
        where = np.clip(((flat + _REACH) * (BINS / (2 * _REACH))).astype(np.int64), 0, BINS - 1)
        each = np.ones_like(flat) if weights is None else weights.reshape(-1).astype(np.float64)
        weighted = each * flat
        self.weight += np.bincount(where, each, BINS)
        self.moment += np.bincount(where, weighted, BINS)
        self.square += np.bincount(where, weighted * flat, BINS)

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values."""
        return Histogram(
            self.weight + other.weight, self.moment + other.moment, self.square + other.square
        )

    def mirrored(self) -> Histogram:
        """The histogram of the values and their negatives."""
        return Histogram(
            self.weight + self.weight[::-1],
            self.moment - self.moment[::-1],
            self.square + self.square[::-1],
        )

    @property
    def total(self) -> float:
        """Sum of the weights."""
        return float(self.weight.sum())


def fit(histogram: Histogram, bits: int, group: int, name: str, *, symmetric: bool) -> Codebook:
    """Lloyd-Max on the binned values.

    Each bin counts as its weight at its own mean. Iterated until no level moves by more than
    1e-12 standard deviations.

    Parameters
    ----------
    histogram : Histogram
    bits : int
    group : int
        The codebook's unit: rotated unit vectors of this many values.
    name : str
        Id of the codebook.
    symmetric : bool
        Fit the values and their negatives together: levels mirror and the middle boundary is 0,
        which the fast kernels like.

    Raises
    ------
    InputError
        If there are fewer occupied bins than levels.
    """
    data = histogram.mirrored() if symmetric else histogram
    used = data.weight > 0
    count = 2**bits
    if int(used.sum()) < count:
        raise InputError(
            f"codebook {name}: {int(used.sum())} distinct values; {bits} bits need at least "
            f"{count}; give more tensors or fewer bits"
        )
    weight, moment = data.weight[used], data.moment[used]
    points = moment / weight
    # Running sums make each step cost levels, not bins.
    mass = np.concatenate([[0.0], np.cumsum(weight)])
    first = np.concatenate([[0.0], np.cumsum(moment)])
    levels = np.interp((np.arange(count) + 0.5) / count * mass[-1], mass[1:], points)
    for _ in range(_MAX_STEPS):
        cuts = np.searchsorted(points, (levels[1:] + levels[:-1]) / 2)
        edges = np.concatenate([[0], cuts, [points.size]])
        cell = np.diff(mass[edges])
        updated = np.where(cell > 0, np.diff(first[edges]) / np.where(cell > 0, cell, 1), levels)
        step = float(np.abs(updated - levels).max())
        levels = updated
        if step <= TOLERANCE:
            break
    if symmetric:
        levels = (levels - levels[::-1]) / 2
    centroids = tuple(float(c) for c in levels / np.sqrt(group))
    edges_of = midpoints(centroids)
    if symmetric:
        half = edges_of[len(edges_of) // 2 + 1 :]
        edges_of = (*(-e for e in reversed(half)), 0.0, *half)
    return Codebook(name, bits, group, centroids, edges_of)


def distortion(histogram: Histogram, book: Codebook) -> float:
    """Mean squared error of `book` on the binned values, relative to their mean square.

    Bins that a boundary cuts go to the side of their mean: an error of order (bin width)^2.
    """
    used = histogram.weight > 0
    weight, moment = histogram.weight[used], histogram.moment[used]
    scale = np.sqrt(book.dim)
    levels = np.asarray(book.centroids) * scale
    code = np.searchsorted(np.asarray(book.boundaries) * scale, moment / weight, side="right")
    level = levels[code]
    error = histogram.square[used] - 2 * level * moment + level * level * weight
    return float(error.sum() / histogram.square.sum())
