"""What arrays and layouts must be before a kernel may see them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqcli.errors import input_error
from tqcli.kernels.layout import GROUPS, Layout, TrellisLayout

# Place in this tuple is the number that the extension knows a type by.
FLOATS: tuple[np.dtype[Any], ...] = (
    np.dtype(np.float32),
    np.dtype(np.float16),
    np.dtype(ml_dtypes.bfloat16),
)
_FLOAT_NAMES = "float32, float16 or bfloat16"
BLOCKS = (32, 64, 128)
HEADERS = (2, 4)
BITS = (2, 3, 4)
MAX_ENTRY = 127  # of a trellis table; -128 has no counterpart
RUN = 8  # codes are packed and unpacked in runs of a multiple of this


def float_type(dtype: DTypeLike, where: str) -> np.dtype[Any]:
    """`dtype` as one of :data:`FLOATS`; another is an InputError."""
    try:
        found = np.dtype(dtype)
    except TypeError as error:
        raise input_error(where, f"{dtype!r} is no dtype", _FLOAT_NAMES) from error
    if found not in FLOATS:
        raise input_error(where, f"dtype {found}", _FLOAT_NAMES, "convert it with astype")
    return found


def array(given: object, where: str) -> NDArray[Any]:
    """`given` if it is a NumPy array; else an InputError."""
    if not isinstance(given, np.ndarray):
        raise input_error(where, f"a {type(given).__name__}", "a NumPy array")
    return given


def rows(given: object, dtype: DTypeLike, width: int, where: str) -> NDArray[Any]:
    """`given` as C-contiguous rows ``(n, width)`` of `dtype`; copied only if it is strided."""
    found = array(given, where)
    if found.dtype != dtype:
        raise input_error(where, f"dtype {found.dtype}", f"dtype {np.dtype(dtype)}")
    if found.ndim != 2 or found.shape[1] != width:
        raise input_error(where, f"shape {found.shape}", f"shape (n, {width})")
    return np.ascontiguousarray(found)


def runs(given: object, width: int, where: str) -> NDArray[np.uint8]:
    """`given` as a C-contiguous uint8 array whose last axis is a multiple of `width`."""
    found = array(given, where)
    if found.dtype != np.uint8:
        raise input_error(where, f"dtype {found.dtype}", "dtype uint8")
    if found.ndim == 0 or found.shape[-1] == 0 or found.shape[-1] % width:
        legal = f"a last axis that is a multiple of {width}"
        raise input_error(where, f"shape {found.shape}", legal)
    return np.ascontiguousarray(found)


def output(
    out: object, shape: tuple[int, ...], dtype: DTypeLike, source: NDArray[Any]
) -> NDArray[Any]:
    """`out` if a kernel may write it, a fresh array if it is None."""
    if out is None:
        return np.empty(shape, dtype)
    out = array(out, "out")
    if out.dtype != dtype or out.shape != shape:
        raise input_error(
            "out", f"{out.dtype} {out.shape}", f"{np.dtype(dtype)} {shape}", "or leave it out"
        )
    if not out.flags.c_contiguous:
        raise input_error("out", f"strides {out.strides}", "a C-contiguous array")
    if not out.flags.writeable:
        raise input_error("out", "a read-only array", "a writable one")
    if np.may_share_memory(out, source):
        raise input_error("out", "memory of the input", "memory of its own")
    return out


def bits(value: int) -> int:
    """`value` if it is a legal number of bits."""
    if value not in BITS:
        raise input_error("bits", str(value), "2, 3 or 4")
    return value


def layout(given: Layout) -> None:
    """Raise InputError unless every number and table of a layout is legal."""
    where = "layout"
    bits(given.bits)
    if given.group not in GROUPS:
        raise input_error(where, f"group {given.group}", "64 or 128")
    if isinstance(given, TrellisLayout):
        table, shape = given.table, (1 << given.window,)
        if not isinstance(table, np.ndarray) or table.dtype != np.int8 or table.shape != shape:
            came = getattr(table, "shape", type(table).__name__)
            raise input_error(where, f"table {came}", f"int8 of shape {shape}")
        if table.min() < -MAX_ENTRY:
            raise input_error(where, f"table with {table.min()}", f"-{MAX_ENTRY} to {MAX_ENTRY}")
        return
    if given.block not in BLOCKS or given.block > given.group:
        raise input_error(where, f"block {given.block}", "32, 64 or 128, at most the group")
    if given.header not in HEADERS:
        raise input_error(where, f"header {given.header}", "2 or 4")
    levels = 2**given.bits
    _table(given.centroids, levels, "centroids")
    _table(given.midpoints, levels - 1, "midpoints")
    if np.any(np.diff(given.midpoints) < 0):
        raise input_error(where, "midpoints out of order", "ascending midpoints")


def _table(table: object, size: int, name: str) -> None:
    legal = f"float32 of shape ({size},), all finite"
    if not isinstance(table, np.ndarray) or table.dtype != np.float32 or table.shape != (size,):
        came = getattr(table, "shape", type(table).__name__)
        raise input_error("layout", f"{name} {came}", legal)
    if not np.all(np.isfinite(table)):
        raise input_error("layout", f"{name} with a non-finite entry", legal)
