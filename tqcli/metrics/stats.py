"""What a codec did to vectors: error, cosine, and what is left of K when its mean is taken away.

The mean over tokens is the part of K that softmax does not see: a constant added to every key
shifts all scores of a query alike. So the error that counts is the one left after the mean is
taken from K and from decoded K, against what is left of K. A large common offset hides this from
cosine and plain error.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import pairwise
from math import fsum, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.kernels import stats as kernel
from tqcli.metrics.cosines import CosineCounts
from tqcli.metrics.sums import UNIT, TokenSums

F64 = NDArray[np.float64]
# Places in the sums of a unit; then come the sums of keys and of errors, channel by channel.
VECTORS, VALUES, ERROR, SIGNAL, DISTANCE, DISTANCE_SQUARE, SECOND, FOURTH, ROTATED = range(9)
CHANNELS = 9

VECTOR_MEASURES = (
    "vectors",
    "mse",
    "nmse",
    "cosine_mean",
    "cosine_p50",
    "cosine_p1",
    "cosine_p01",
    "cosine_min",
    "max_abs_error",
)
OFFSET_MEASURES = ("centred_nmse", "offset_ratio", "kurtosis")


class Stats:
    """Figures of the vectors of one head, or of several that were merged.

    Equal vectors give equal bits, whichever kernel runs, into whatever pieces they are cut and in
    whatever order parts are merged; a part of a sequence must begin at a multiple of
    :data:`tqcli.metrics.sums.UNIT` tokens for that.

    Parameters
    ----------
    offset : bool
        Keep what :meth:`offset_measures` needs, which speaks of K.
    """

    def __init__(self, *, offset: bool = False) -> None:
        self._offset = offset
        self._rows: dict[Hashable, TokenSums] = {}
        self._cosines = CosineCounts()
        self._largest = 0.0

    def add(
        self,
        x: NDArray[Any],
        decoded: NDArray[Any],
        *,
        row: Hashable = 0,
        token: int = 0,
        keep: NDArray[np.bool_] | None = None,
    ) -> F64:
        """Count vectors and what they decode to.

        Parameters
        ----------
        x, decoded : float arrays, shape (n, head_dim)
        row : hashable
            Names the head and the sequence: each has a mean of its own.
        token : int
            Place of the first vector in the sequence.
        keep : bool array, shape (n,), optional
            Which vectors count; all without it.

        Returns
        -------
        float64 array, shape (n, 5)
            As :func:`tqcli.kernels.stats.errors` gives it; a row for each vector that counts.
        """
        edges = [0, *range(UNIT - token % UNIT, len(x), UNIT), len(x)]
        parts = [np.empty((0, 5))]
        for first, stop in pairwise(edges):
            a, b = x[first:stop], decoded[first:stop]
            if keep is not None:
                a, b = a[keep[first:stop]], b[keep[first:stop]]
            if a.size:
                parts.append(self._add(a, b, row, (token + first) // UNIT))
        return np.concatenate(parts) if len(parts) != 2 else parts[1]

    def _add(self, x: NDArray[Any], decoded: NDArray[Any], row: Hashable, number: int) -> F64:
        """Count vectors of one unit."""
        dim = x.shape[1]
        if row not in self._rows:
            self._rows[row] = TokenSums(CHANNELS + 2 * dim * self._offset)
        unit = self._rows[row].unit(number)
        unit[VECTORS] += len(x)
        unit[VALUES] += x.size
        rows = kernel.errors(x, decoded, unit[CHANNELS:].reshape(2, dim) if self._offset else None)
        totals = np.append(unit[ERROR:SECOND], [self._largest, np.inf, 0.0])
        keys = kernel.summarize(rows, totals)
        unit[ERROR:SECOND] = totals[: kernel.LARGEST_ERROR]
        self._largest = float(totals[kernel.LARGEST_ERROR])
        self._cosines.add(keys, float(totals[kernel.NEAREST]), float(totals[kernel.FARTHEST]))
        if self._offset:
            unit[ROTATED] += kernel.moments(x, unit[SECOND:ROTATED]) * len(x)
        return rows

    @classmethod
    def merged(cls, parts: Iterable[Stats]) -> Stats:
        """The figures of all parts, which stay as they are."""
        parts = list(parts)
        whole = cls(offset=any(part._offset for part in parts))
        for part in parts:
            for row, sums in part._rows.items():
                own = whole._rows.get(row)
                whole._rows[row] = sums.copy() if own is None else own.merge(sums)
        whole._cosines = CosineCounts.merged([part._cosines for part in parts])
        whole._largest = max((part._largest for part in parts), default=0.0)
        return whole

    def merge(self, other: Stats) -> Stats:
        """The figures of both."""
        return Stats.merged([self, other])

    @property
    def vectors(self) -> int:
        """How many were counted."""
        return int(self._sums()[VECTORS])

    def measures(self) -> dict[str, float | int | None]:
        """The :data:`VECTOR_MEASURES`; None where there is nothing to measure.

        ``nmse`` is error energy over signal energy, pooled. Percentiles are of the cosines of
        vectors, from the lower end, by linear interpolation, within 2^-20. A zero vector that
        stays zero has cosine 1; one side zero gives 0.
        """
        sums = self._sums()
        if not sums[VECTORS]:
            return dict.fromkeys(VECTOR_MEASURES) | {"vectors": 0}
        return {
            "vectors": int(sums[VECTORS]),
            "mse": sums[ERROR] / sums[VALUES],
            "nmse": _ratio(sums[ERROR], sums[SIGNAL]),
            "cosine_mean": 1 - sums[DISTANCE] / sums[VECTORS],
            "cosine_p50": self._cosines.percentile(50),
            "cosine_p1": self._cosines.percentile(1),
            "cosine_p01": self._cosines.percentile(0.1),
            "cosine_min": 1 - self._cosines.farthest,
            "max_abs_error": self._largest,
        }

    def cosine_moments(self) -> tuple[int, float, float]:
        """Number of vectors, mean and unbiased variance of their cosines; there must be two."""
        sums = self._sums()
        count, total = sums[VECTORS], sums[DISTANCE]
        spread = max(sums[DISTANCE_SQUARE] - total * total / count, 0.0)
        return int(count), 1 - total / count, spread / (count - 1)

    def offset_measures(self) -> dict[str, float | None]:
        """The :data:`OFFSET_MEASURES`; None where nothing is left after centring.

        ``centred_nmse`` is the error left after centring over what is left of K, ``offset_ratio``
        the norm of the mean over the RMS of the rest, ``kurtosis`` that of the values of unit
        vectors after the rotation of the turbo family, less 3.
        """
        if not self._offset or not self._rows:
            return dict.fromkeys(OFFSET_MEASURES)
        heads = [_centred(sums.total()) for sums in self._rows.values()]
        error, rest, offset = (fsum(part) for part in zip(*heads, strict=True))
        # Float64 sums of equal keys leave rounding dust, not a signal.
        empty = rest <= 1e-12 * offset
        sums = self._sums()
        fourth, second = sums[FOURTH], sums[SECOND]
        return {
            "centred_nmse": None if empty else error / rest,
            "offset_ratio": None if empty else sqrt(offset / rest),
            "kurtosis": fourth * sums[ROTATED] / second**2 - 3 if second else None,
        }

    def _sums(self) -> list[float]:
        """Sums over all rows, rounded once: the order of the rows does not matter."""
        totals = [sums.total()[:CHANNELS].tolist() for sums in self._rows.values()]
        return [fsum(column) for column in zip(*totals, [0.0] * CHANNELS, strict=True)]


def _centred(total: F64) -> tuple[float, float, float]:
    """Energy of the error and of the keys of one head without their means, and of the mean."""
    keys, errors = total[CHANNELS:].reshape(2, -1)
    mean = fsum(keys * keys) / total[VECTORS]
    lost = fsum(errors * errors) / total[VECTORS]
    return max(total[ERROR] - lost, 0.0), max(total[SIGNAL] - mean, 0.0), mean


def _ratio(part: float, whole: float) -> float | None:
    if whole > 0:
        return part / whole
    return 0.0 if part == 0 else None
