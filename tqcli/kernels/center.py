"""Keys and a mean that RoPE turned: taken away, added back, summed before RoPE.

A *row* is one key. Pair i of it is turned by an angle whose cosine and sine come from tables
(:func:`tqcli.rope.cos_sin_table`); pairs are ``(i, i + pairs)``, or ``(2i, 2i + 1)`` where they are
interleaved, and the values beyond them are not turned. In float32, each operation rounded by
itself, a pair ``(a, b)`` of the mean becomes ``(a cos - b sin, b cos + a sin)``.

The C code, compiled once for each instruction set, and the NumPy code here give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqcli.errors import input_error
from tqcli.kernels import checks, choose

F32 = NDArray[np.float32]
MAX_DIM = 1024  # rows longer than the extension's scratch run on NumPy


@dataclass(frozen=True, eq=False)
class Turn:
    """How each of some rows is turned.

    Parameters
    ----------
    cos, sin : float32 arrays, shape (rows, pairs)
        C-contiguous; no columns at all where nothing is turned.
    interleaved : bool
    """

    cos: F32
    sin: F32
    interleaved: bool = False

    def part(self, first: int, last: int) -> Turn:
        """Rows `first` to `last` - 1."""
        return Turn(self.cos[first:last], self.sin[first:last], self.interleaved)

    def columns(self, dim: int) -> tuple[slice, slice, slice]:
        """The first and the second value of each pair of a row of `dim`, and the rest."""
        pairs = self.cos.shape[1]
        if self.interleaved:
            return slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2), slice(2 * pairs, dim)
        return slice(0, pairs), slice(pairs, 2 * pairs), slice(2 * pairs, dim)


def take_mean(x: NDArray[Any], turn: Turn, mean: F32, out: F32 | None = None) -> F32:
    """``x - R mean`` of each row.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (rows, head_dim)
    turn : Turn
    mean : float32 array, shape (head_dim,)
    out : float32 array, shape (rows, head_dim), optional
        Where to write; C-contiguous, no memory of `x`.

    Returns
    -------
    float32 array, shape (rows, head_dim)

    Raises
    ------
    InputError
        If an array is not of these types and shapes.
    """
    kind = checks.float_type(checks.array(x, "x").dtype, "x")
    source = _rows(x, kind, turn, mean)
    result = _output(out, source.shape, np.float32, source)
    if (native := _native(source.shape[1])) is None:
        with np.errstate(all="ignore"):
            np.subtract(source.astype(np.float32), _turned(turn, mean), out=result)
        return result
    number, raw = checks.FLOATS.index(kind), source.view(np.uint8)

    def run(first: int, last: int) -> None:
        arguments = _arguments(turn, source.shape[1], first, last)
        native.take_mean(*arguments, raw[first:last], number, mean, result[first:last])

    choose.split(run, *source.shape)
    return result


def give_mean(
    x: F32,
    turn: Turn,
    mean: F32,
    dtype: DTypeLike = np.float32,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """``x + R mean`` of each row: undoes :func:`take_mean` up to rounding.

    Parameters
    ----------
    x : float32 array, shape (rows, head_dim)
    turn, mean
        As :func:`take_mean` takes them.
    dtype : float32, float16 or bfloat16
        The latter two are the float32 result rounded to nearest even.
    out : array of `dtype`, shape (rows, head_dim), optional
        Where to write; C-contiguous, no memory of `x`.

    Returns
    -------
    array of `dtype`, shape (rows, head_dim)

    Raises
    ------
    InputError
        If an array is not of these types and shapes.
    """
    kind = checks.float_type(dtype, "dtype")
    source = _rows(x, np.float32, turn, mean)
    result = _output(out, source.shape, kind, source)
    if (native := _native(source.shape[1])) is None:
        with np.errstate(all="ignore"):
            result[...] = source + _turned(turn, mean)
        return result
    number, raw = checks.FLOATS.index(kind), result.view(np.uint8)

    def run(first: int, last: int) -> None:
        arguments = _arguments(turn, source.shape[1], first, last)
        native.give_mean(*arguments, source[first:last], number, mean, raw[first:last])

    choose.split(run, *source.shape)
    return result


def sum_keys(x: NDArray[Any], turn: Turn, sums: NDArray[np.float64]) -> None:
    """Add every row, turned back, to running sums.

    A pair ``(a, b)`` adds ``(a cos + b sin, b cos - a sin)``, in float64 and row by row: sums do
    not depend on how the rows are cut into calls, nor on the number of threads.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (rows, head_dim)
    turn : Turn
    sums : float64 array, shape (head_dim,)
        Changed in place.

    Raises
    ------
    InputError
        If an array is not of these types and shapes.
    """
    kind = checks.float_type(checks.array(x, "x").dtype, "x")
    source = _rows(x, kind, turn, sums, np.float64)
    rows, dim = source.shape
    pairs = turn.cos.shape[1]
    if (native := _native(dim)) is None:
        _sum_reference(source.astype(np.float64), turn, sums)
        return
    number, raw = checks.FLOATS.index(kind), source.view(np.uint8)

    def run(first: int, last: int) -> None:
        arguments = _arguments(turn, dim, 0, rows)
        native.sum_keys(*arguments, raw, number, sums, first, last)

    choose.split(run, pairs, 2 * rows) if pairs else run(0, 0)


def _rows(
    x: object, kind: DTypeLike, turn: Turn, mean: NDArray[Any], of: DTypeLike = np.float32
) -> NDArray[Any]:
    """`x` as C-contiguous rows that fit the tables, and the mean or sums beside them."""
    width = mean.shape[0] if mean.ndim == 1 else -1
    source = np.require(checks.rows(x, kind, width, "x"), requirements=["C", "A"])
    if mean.dtype != of:
        raise input_error("mean", f"dtype {mean.dtype}", f"dtype {np.dtype(of)}")
    for table in (turn.cos, turn.sin):
        legal = f"float32 ({len(source)}, at most {width // 2})"
        shape_fits = table.shape == turn.cos.shape and len(table) == len(source)
        if table.dtype != np.float32 or not shape_fits or 2 * table.shape[1] > width:
            raise input_error("table", f"{table.dtype} {table.shape}", legal)
    for array in (mean, turn.cos, turn.sin):
        if not (array.flags.c_contiguous and array.flags.aligned):
            raise input_error("mean or table", f"strides {array.strides}", "contiguous, aligned")
    return source


def _output(out: object, shape: tuple[int, ...], dtype: DTypeLike, x: NDArray[Any]) -> NDArray[Any]:
    target = checks.output(out, shape, dtype, x)
    if not target.flags.aligned:
        raise input_error("out", "an unaligned array", "an aligned one")
    return target


def _native(dim: int) -> Any:
    """The extension, unless NumPy is forced or the row is too long for it."""
    return choose.native if choose.index() is not None and dim <= MAX_DIM else None


def _arguments(turn: Turn, dim: int, first: int, last: int) -> tuple[Any, ...]:
    some = turn.part(first, last)
    return choose.index(), dim, turn.cos.shape[1], turn.interleaved, some.cos, some.sin


def _turned(turn: Turn, mean: F32) -> F32:
    first, second, rest = turn.columns(len(mean))
    a, b = mean[first], mean[second]
    row = np.empty((len(turn.cos), len(mean)), np.float32)
    row[:, first] = a * turn.cos - b * turn.sin
    row[:, second] = b * turn.cos + a * turn.sin
    row[:, rest] = mean[rest]
    return row


def _sum_reference(x: NDArray[np.float64], turn: Turn, sums: NDArray[np.float64]) -> None:
    first, second, rest = turn.columns(len(sums))
    rows = np.empty((len(x) + 1, len(sums)))
    a, b = x[:, first], x[:, second]
    rows[0], rows[1:, rest] = sums, x[:, rest]
    with np.errstate(invalid="ignore"):
        rows[1:, first] = a * turn.cos + b * turn.sin
        rows[1:, second] = b * turn.cos - a * turn.sin
        # accumulate adds in order, where a sum would add pairwise
        sums[...] = np.add.accumulate(rows, axis=0)[-1]
