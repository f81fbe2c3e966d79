"""The specification of the statistics: vectors beside what they decode to, in float64.

Sums have one order, which every kernel keeps. A sum over the values of a vector is eight partial
sums: value ``e`` joins number ``e mod 8``, in the order of ``e``; then 4 to 7 are added to 0 to 3,
2 and 3 to 0 and 1, and 1 to 0. Sums over vectors run from the first to the last, so that they may
be taken up where an earlier call left them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli import rotation

F64 = NDArray[np.float64]
# Columns of the rows that :func:`errors` gives.
ERROR, SIGNAL, DOT, DECODED, LARGEST = range(5)
# Places in the totals of :func:`summarize`: four sums, then what is largest or smallest.
TOTAL_ERROR, TOTAL_SIGNAL, DISTANCE, DISTANCE_SQUARE, LARGEST_ERROR, NEAREST, FARTHEST = range(7)
# Places in the totals of :func:`moments`.
SECOND, FOURTH = range(2)
_PARTS = 8


def errors(x: NDArray[Any], decoded: NDArray[Any], channels: F64 | None = None) -> F64:
    """Energy of the error, energy of `x`, dot product, energy of `decoded`, largest error.

    Parameters
    ----------
    x, decoded : float arrays, shape (n, dim)
    channels : float64 array, shape (2, dim), optional
        The vectors and their errors are added to it.

    Returns
    -------
    float64 array, shape (n, 5)
    """
    rows = np.empty((x.shape[0], 5))
    with np.errstate(all="ignore"):
        a, b = x.astype(np.float64), decoded.astype(np.float64)
        difference = b - a
        rows[:, ERROR] = _sums(difference * difference)
        rows[:, SIGNAL] = _sums(a * a)
        rows[:, DOT] = _sums(a * b)
        rows[:, DECODED] = _sums(b * b)
        rows[:, LARGEST] = np.fmax.reduce(np.abs(difference), axis=1, initial=0.0)
        if channels is not None:
            _add_rows(channels[0], a)
            _add_rows(channels[1], difference)
    return rows


def moments(x: NDArray[Any], group: int, totals: F64) -> None:
    """Add up the squares and the fourth powers of the unit vectors after the rotation.

    Each vector is divided by its length (a zero vector stays zero), rounded to float32, padded to
    whole groups and rotated by :func:`tqcli.rotation.rotate` without the factors behind the
    butterflies: values are ``sqrt(group)`` times those of a unit vector.

    Parameters
    ----------
    x : float array, shape (n, dim)
    group : {64, 128}
    totals : float64 array, shape (2,)
        Added to.
    """
    with np.errstate(all="ignore"):
        a = x.astype(np.float64)
        length = np.sqrt(_sums(a * a))
        inverse = np.where(length > 0, 1 / length, 0.0)
        unit = (a * inverse[:, None]).astype(np.float32)
        unit = np.pad(unit, ((0, 0), (0, -a.shape[1] % group)))
        before, _ = rotation.signs(group)
        columns = np.ascontiguousarray(unit.reshape(-1, group).T) * before[:, None]
        rotation.hadamard_in_place(columns)
        square = columns.T.reshape(unit.shape).astype(np.float64) ** 2
        _add_rows(totals, np.stack([_sums(square), _sums(square * square)], axis=1))


def summarize(rows: F64, totals: F64) -> NDArray[np.uint32]:
    """Add the rows of :func:`errors` to totals, and give each a key by which it is counted.

    The *distance* of a vector from what it decodes to is 1 less their cosine; 0 where both are
    zero, 1 where one is. A key is the upper half of its float64 bits, cut to steps of 2^-20 from
    2^-8 on, and to 12 bits behind the leading one below.

    Parameters
    ----------
    rows : float64 array, shape (n, 5)
    totals : float64 array, shape (7,)
        Added to.

    Returns
    -------
    uint32 array, shape (n,)
    """
    signal, decoded = rows[:, SIGNAL], rows[:, DECODED]
    with np.errstate(all="ignore"):
        length = np.sqrt(signal * decoded)
        cosine = np.where(length > 0, rows[:, DOT] / length, 0.0)
        distance = 1 - np.where((signal == 0) & (decoded == 0), 1.0, cosine)
        added = (rows[:, ERROR], signal, distance, distance * distance)
        _add_rows(totals[:LARGEST_ERROR], np.stack(added, axis=1))
    for place, extreme, values in (
        (LARGEST_ERROR, np.fmax, rows[:, LARGEST]),
        (NEAREST, np.fmin, distance),
        (FARTHEST, np.fmax, distance),
    ):
        totals[place] = extreme.reduce(values, initial=totals[place])
    bits = np.fmin(np.fmax(distance, 0.0), 2.0).view(np.uint64)
    exponent = (bits >> np.uint64(52)).astype(np.int64) - 1023
    dropped = (20 - np.clip(exponent + 20, 12, 20)).astype(np.uint32)
    keys: NDArray[np.uint32] = (bits >> np.uint64(32)).astype(np.uint32) >> dropped << dropped
    return keys


def bounds(keys: NDArray[np.uint32]) -> tuple[F64, F64]:
    """The smallest distance that has each key, and the smallest that has the next."""
    exponent = (keys >> np.uint32(20)).astype(np.int64) - 1023
    step = np.uint64(1) << (20 - np.clip(exponent + 20, 12, 20)).astype(np.uint64)
    wide = keys.astype(np.uint64)
    low, high = wide << np.uint64(32), (wide + step) << np.uint64(32)
    return low.view(np.float64), high.view(np.float64)


def _sums(values: F64) -> F64:
    """Sums over the last axis of ``(n, dim)`` in eight parts."""
    count, dim = values.shape
    parts = np.zeros((count, _PARTS))
    for first in range(0, dim, _PARTS):
        piece = values[:, first : first + _PARTS]
        parts[:, : piece.shape[1]] += piece
    for half in (4, 2, 1):
        parts = parts[:, :half] + parts[:, half : 2 * half]
    return parts[:, 0]


def _add_rows(totals: F64, rows: F64) -> None:
    """Add rows to totals one after the other: accumulate does, reduce may take pairs."""
    columns = np.empty((rows.shape[1], rows.shape[0] + 1))
    columns[:, 0], columns[:, 1:] = totals, rows.T
    totals[...] = np.add.accumulate(columns, axis=1)[:, -1]
