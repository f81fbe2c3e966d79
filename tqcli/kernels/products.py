"""Products of matrices of 16-bit integers, exact modulo 2^32.

Sums wrap as unsigned integers do, so the order of summation is free, and every kernel, every BLAS
and every number of threads gives the same integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import input_error
from tqcli.kernels import checks, choose

I8 = NDArray[np.int8]
I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
SHIFTS = range(-16, 32)
# Products of 2^30 add up to this many without leaving the integers that float64 holds.
_EXACT_DEPTH = 1 << 22


def multiply(
    a: I16,
    x: I16,
    *,
    shifts: I8 | None = None,
    add_to: I32 | None = None,
    threads: int | None = None,
) -> I32:
    """``a @ x`` modulo 2^32, each row shifted, and added to another matrix.

    Parameters
    ----------
    a : int16 array, shape (rows, depth)
    x : int16 array, shape (depth, columns)
    shifts : int8 array, shape (rows,), optional
        Bits by which the sums of a row are shifted to the right, halves rounded up; below 0: to
        the left. -16 to 31.
    add_to : int32 array, shape (rows, columns), optional
        Overwritten by its sum with the product, modulo 2^32.
    threads : int, optional
        Default: what ``kernels.set_threads`` says, all cores otherwise.

    Returns
    -------
    int32 array, shape (rows, columns)
        `add_to` if it is given.

    Raises
    ------
    InputError
        If an array is not of these types and shapes.

    Examples
    --------
    >>> multiply(np.array([[3, 4]], np.int16), np.array([[10], [1]], np.int16))
    array([[34]], dtype=int32)
    """
    left, right = _matrix(a, "a"), _matrix(x, "x")
    (rows, depth), columns = left.shape, right.shape[1]
    if right.shape[0] != depth or depth > _EXACT_DEPTH:
        raise input_error("x", f"shape {right.shape}", f"({depth}, columns) for a {left.shape}")
    if shifts is not None:
        shifts = _shifts(shifts, rows)
    if add_to is None:
        out: I32 = np.empty((rows, columns), np.int32)
    else:
        out = checks.output(add_to, (rows, columns), np.int32, right)
    add, index = add_to is not None, choose.index()
    if out.size == 0:
        return out
    if index is None or choose.native is None:
        sums = _wrap(left.astype(np.float64) @ right.astype(np.float64))
        sums = sums if shifts is None else _shift(sums, shifts[:, None])
        np.add(sums, out if add else 0, out=out)
        return out
    run_rows = choose.native.multiply

    def run(start: int, stop: int) -> None:
        own = None if shifts is None else shifts[start:stop]
        run_rows(
            index, stop - start, depth, columns, left[start:stop], right, out[start:stop], own, add
        )

    # A product is far less work than the conversion of a value that split() reckons with.
    choose.split(run, rows, depth * columns // 32, threads)
    return out


def _wrap(sums: NDArray[np.float64]) -> I32:
    """Integers in float64, exact, modulo 2^32."""
    return sums.astype(np.int64).astype(np.uint32).view(np.int32)


def _shift(sums: I32, shifts: I8) -> I32:
    left = np.left_shift(sums, np.maximum(-shifts, 0).astype(np.int32))
    bits = np.maximum(shifts, 0).astype(np.int32)
    half = np.where(bits > 0, left >> np.maximum(bits - 1, 0) & 1, 0)
    return (left >> bits) + half


def _matrix(given: object, where: str) -> I16:
    found = checks.array(given, where)
    if found.dtype != np.int16 or found.ndim != 2:
        raise input_error(where, f"{found.dtype} {found.shape}", "int16, two axes")
    return np.require(found, requirements=("C", "A"))


def _shifts(given: object, rows: int) -> I8:
    found = checks.array(given, "shifts")
    if found.dtype != np.int8 or found.shape != (rows,):
        raise input_error("shifts", f"{found.dtype} {found.shape}", f"int8 ({rows},)")
    if len(found) and (found.min() < SHIFTS[0] or found.max() > SHIFTS[-1]):
        raise input_error("shifts", f"{found.min()} to {found.max()}", "-16 to 31")
    return np.ascontiguousarray(found)
