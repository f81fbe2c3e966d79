"""Statistics of vectors beside what they decode to, the same on every kernel.

``stats_reference`` is the specification; its sums have one order, so that equal input gives equal
bits, whichever kernel runs and wherever a caller cuts its arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli import rotation
from tqcli.errors import input_error
from tqcli.kernels import checks, choose, stats_reference
from tqcli.kernels.stats_reference import (
    DISTANCE,
    DISTANCE_SQUARE,
    ERROR,
    FARTHEST,
    FOURTH,
    LARGEST_ERROR,
    NEAREST,
    SECOND,
    SIGNAL,
    TOTAL_ERROR,
    TOTAL_SIGNAL,
    bounds,
)

F64 = NDArray[np.float64]
_NONE = np.empty(0)


def errors(x: NDArray[Any], decoded: NDArray[Any], channels: F64 | None = None) -> F64:
    """Measure vectors beside what they decode to.

    Parameters
    ----------
    x, decoded : float arrays, shape (n, dim)
        float32, float16 and bfloat16 run on kernels; other types on NumPy.
    channels : float64 array, shape (2, dim), optional
        The sums over the vectors of `x` and of the errors are added to it, one vector after the
        other.

    Returns
    -------
    float64 array, shape (n, 5)
        Of each vector the energy of the error (column :data:`ERROR`), of `x` (:data:`SIGNAL`), the
        dot product, the energy of `decoded`, and the largest absolute error.

    Raises
    ------
    InputError
        If the shapes do not agree.
    """
    _check(x, "x")
    if decoded.shape != x.shape:
        raise input_error("decoded", f"shape {decoded.shape}", f"shape {x.shape}")
    if channels is not None and channels.shape != (2, x.shape[1]):
        raise input_error("channels", f"shape {channels.shape}", f"shape (2, {x.shape[1]})")
    index = choose.index()
    if index is None or choose.native is None or not {x.dtype, decoded.dtype} <= set(checks.FLOATS):
        return stats_reference.errors(x, decoded, channels)
    rows = np.empty((len(x), 5))
    choose.native.errors(
        index,
        _bytes(x),
        checks.FLOATS.index(x.dtype),
        np.ascontiguousarray(decoded, np.float32),
        x.shape[1],
        rows,
        _NONE if channels is None else channels,
    )
    return rows


def summarize(rows: F64, totals: F64) -> NDArray[np.uint32]:
    """Add the rows of :func:`errors` to totals, one after the other.

    Parameters
    ----------
    rows : float64 array, shape (n, 5)
    totals : float64 array, shape (7,)
        Sums of error, of signal, of the distances (1 less the cosine) and of their squares, the
        largest absolute error, the smallest and the largest distance: :data:`TOTAL_ERROR` and
        following. Before the first row the sums and the largest are 0, the smallest is infinite.

    Returns
    -------
    uint32 array, shape (n,)
        Keys that grow with the distance, in steps of at most 2^-20 (see :func:`bounds`).
    """
    if choose.index() is None or choose.native is None:
        return stats_reference.summarize(rows, totals)
    keys = np.empty(len(rows), np.uint32)
    choose.native.summarize(rows, totals, keys)
    return keys


def moments(x: NDArray[Any], totals: F64) -> int:
    """Add up second and fourth moments of vectors in the rotated domain of the turbo family.

    Parameters
    ----------
    x : float array, shape (n, dim)
    totals : float64 array, shape (2,)
        The squares and the fourth powers of the values of each vector, brought to unit length and
        rotated, in units of ``1 / sqrt(group)``, are added to :data:`SECOND` and :data:`FOURTH`.

    Returns
    -------
    int
        Values of a rotated vector, padding included.
    """
    _check(x, "x")
    # A head of 64 padded to 128 only repeats its 64 rotated values.
    group = 64 if x.shape[1] % 128 == 64 else 128
    index = choose.index()
    if index is None or choose.native is None or x.dtype not in checks.FLOATS:
        stats_reference.moments(x, group, totals)
    else:
        kind, signs = checks.FLOATS.index(x.dtype), rotation.signs(group)[0]
        choose.native.moments(index, _bytes(x), kind, x.shape[1], signs, totals)
    return int(-(-x.shape[1] // group) * group)


def _check(x: NDArray[Any], where: str) -> None:
    if x.ndim != 2 or x.shape[1] == 0:
        raise input_error(where, f"shape {x.shape}", "shape (n, dim), dim at least 1")


def _bytes(x: NDArray[Any]) -> NDArray[np.uint8]:
    """The memory of an array: bfloat16 has no buffer format."""
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)


__all__ = [
    "DISTANCE",
    "DISTANCE_SQUARE",
    "ERROR",
    "FARTHEST",
    "FOURTH",
    "LARGEST_ERROR",
    "NEAREST",
    "SECOND",
    "SIGNAL",
    "TOTAL_ERROR",
    "TOTAL_SIGNAL",
    "bounds",
    "errors",
    "moments",
    "summarize",
]
