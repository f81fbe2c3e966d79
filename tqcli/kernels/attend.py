"""Attention straight from turbo and trellis blocks: scores and weighted sums without unpacking.

Everything stays in the rotated domain. The rotation is orthonormal, so ``<q, k>`` is the product
of the rotated query with the stored centroids, and a weighted sum of values is unrotated once, at
the end, instead of once a token::

    q_rotated = rotate(q)                        # (m, d), one row a query head
    scores = attend.scores(q_rotated, k_blocks, layout)          # (m, n)
    weights = softmax(scores / sqrt(head_dim))
    out = unrotate(attend.weighted_sum(weights, v_blocks, layout))   # (m, d)

A vector of ``d`` values is ``d / group`` groups, stored one after the other; queries that share
their keys (grouped-query attention) belong into one call. Results do not depend on the number of
threads, and those of compiled kernels neither on where a vector stands nor on what else is in the
call. Between kernels they differ in the last bits, within the bounds stated here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqcli.errors import input_error
from tqcli.kernels import attend_reference, checks, choose, decode, layout_capsule
from tqcli.kernels.layout import Layout, TrellisLayout, TurboLayout

F32 = NDArray[np.float32]
# Vectors whose sum is formed in one piece, whatever the number of threads.
SLAB = 4096
_NO_SCALES = np.empty(0, np.float32)
F16_GRAIN = 64  # float16 vectors are a multiple of this many values long

_int8_tables: WeakKeyDictionary[TurboLayout, tuple[NDArray[np.int8], np.float32]] = (
    WeakKeyDictionary()
)


def scores(
    q: F32,
    blocks: NDArray[np.uint8],
    layout: Layout,
    *,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32:
    """Dot products of rotated queries with packed keys.

    Parameters
    ----------
    q : float32 array, shape (m, d)
        Rotated queries; `d` is a multiple of the layout's group.
    blocks : uint8 array, shape (n, d / group * group_bytes)
    layout : TurboLayout or TrellisLayout
    out : float32 array, shape (m, n), optional
        Where to write; C-contiguous, no memory of the inputs.
    threads : int, optional
        Default: what ``kernels.set_threads`` says, all cores otherwise.

    Returns
    -------
    float32 array, shape (m, n)
        Within ``1e-6 * |q| * |k|`` of the exact product with the decoded key. A key whose norm is
        not finite has a score that is not finite.

    Raises
    ------
    InputError
        If an array is not of these types and shapes.
    """
    capsule, queries = layout_capsule(layout), _matrix(q, np.float32, "q")
    packed = _packed(blocks, layout, queries.shape[1])
    target = _output(out, (len(queries), len(packed)), q, blocks)
    index = choose.index()
    if target.size == 0:
        return target
    if index is None or choose.native is None:
        target[...] = attend_reference.scores(queries, packed, layout)
        return target
    run_scores, m = choose.native.scores, len(queries)
    scales: tuple[F32, ...] = ()
    if isinstance(layout, TrellisLayout):
        run_scores, scales = choose.native.trellis_scores, (_NO_SCALES,)

    def run(start: int, stop: int) -> None:
        run_scores(index, capsule, m, queries, *scales, packed[start:stop], target, start)

    choose.split(run, len(packed), queries.shape[1], threads)
    return target


def quantize_query(q: F32) -> tuple[NDArray[np.int8], F32]:
    """Rotated queries as int8, for :func:`scores_int8`.

    Parameters
    ----------
    q : float32 array, shape (m, d)

    Returns
    -------
    q8 : int8 array, shape (m, d)
        ``rint(q / scale)``, in -127..127.
    scale : float32 array, shape (m,)
        ``max|q| / 127``; 0 for a query of zeros.

    Raises
    ------
    InputError
        If `q` is no such array or not finite.

    Examples
    --------
    >>> q8, scale = quantize_query(np.array([[1.0, -0.5, 0.0, 0.25]], np.float32))
    >>> q8.tolist()
    [[127, -64, 0, 32]]
    """
    queries = _matrix(q, np.float32, "q")
    finite = np.isfinite(queries).all(axis=1)
    if not finite.all():
        raise input_error("q", f"a non-finite value in query {int(np.argmin(finite))}", "finite")
    return attend_reference.quantize_query(queries)


def scores_int8(
    q8: NDArray[np.int8],
    scale: F32,
    blocks: NDArray[np.uint8],
    layout: Layout,
    *,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32:
    """Dot products of int8 queries with packed keys, on int8 centroids.

    Two errors come on top of those of the keys: the query is rounded to steps of its scale, at
    most half a step a value, and the centroids are rounded to int8. On Gaussian vectors of 128
    they add 0.7 % to the scores (root mean square; turbo4 0.9 %), where the keys' own error is
    34 % for turbo2, 18 % for turbo3 and 10 % for turbo4. The integers are multiplied exactly.
    Trellis tables are int8 as they are, so of the two errors only the query's is left.

    Parameters
    ----------
    q8 : int8 array, shape (m, d)
        In -127..127, from :func:`quantize_query`.
    scale : float32 array, shape (m,)
    blocks, layout, out, threads
        As in :func:`scores`.

    Returns
    -------
    float32 array, shape (m, n)

    Raises
    ------
    InputError
        If an array is not of these types and shapes, or `q8` contains -128.
    """
    capsule, queries = layout_capsule(layout), _matrix(q8, np.int8, "q8")
    if queries.size and queries.min() < -attend_reference.PEAK:
        raise input_error("q8", "-128", "-127 to 127", "use quantize_query")
    if not isinstance(scale, np.ndarray) or scale.shape != (len(queries),):
        raise input_error("scale", f"{np.shape(scale)}", f"an array of shape ({len(queries)},)")
    packed = _packed(blocks, layout, queries.shape[1])
    target = _output(out, (len(queries), len(packed)), q8, blocks, scale)
    index = choose.index()
    if target.size == 0:
        return target
    if index is None or choose.native is None:
        target[...] = attend_reference.scores_int8(queries, scale, packed, layout)
        return target
    tables: tuple[NDArray[Any], ...]
    m = len(queries)
    if isinstance(layout, TrellisLayout):
        run_scores = choose.native.trellis_scores
        tables = (np.ascontiguousarray(scale, np.float32),)
    else:
        centroids, unit = _int8_table(layout)
        run_scores = choose.native.scores_int8
        tables = (np.ascontiguousarray(scale * unit, np.float32), centroids)

    def run(start: int, stop: int) -> None:
        run_scores(index, capsule, m, queries, *tables, packed[start:stop], target, start)

    choose.split(run, len(packed), queries.shape[1], threads)
    return target


def weighted_sum(
    w: F32,
    blocks: NDArray[np.uint8],
    layout: Layout,
    *,
    threads: int | None = None,
) -> F32:
    """Sums of packed values under weights, in the rotated domain.

    Parameters
    ----------
    w : float32 array, shape (m, n)
        One row a query head, for example its attention.
    blocks : uint8 array, shape (n, d / group * group_bytes)
        `d` follows from the second axis.
    layout : TurboLayout or TrellisLayout
        Trellis blocks are decoded a slab at a time, without a kernel of their own.
    threads : int, optional
        Default: what ``kernels.set_threads`` says, all cores otherwise.

    Returns
    -------
    float32 array, shape (m, d)
        Within ``5e-6 * sum(|w| * |v|)`` of the exact sum, component by component (typically ten
        times closer): 64 vectors are added in float32, the rest in float64.

    Raises
    ------
    InputError
        If an array is not of these types and shapes.
    """
    capsule, weights = layout_capsule(layout), _matrix(w, np.float32, "w")
    packed = _packed(blocks, layout, None, rows=weights.shape[1])
    dim = packed.shape[1] // layout.group_bytes * layout.group
    index, m = choose.index(), len(weights)
    if index is None or choose.native is None or weights.size == 0:
        return attend_reference.weighted_sum(weights, packed, layout, dim)
    if isinstance(layout, TrellisLayout):
        return _decoded_sum(weights, packed, layout, dim)
    run_sum = choose.native.weighted_sum

    def run(first: int, stop: int, out: NDArray[np.float64]) -> None:
        run_sum(index, capsule, m, dim, SLAB, weights, first, packed[first:stop], out)

    return _slabs(run, len(packed), m, dim, threads)


def scores_f16(
    q: F32,
    keys: NDArray[np.float16],
    *,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32:
    """Dot products of queries ``(m, d)`` with float16 keys ``(n, d)``: float32 ``(m, n)``.

    What a cache without quantization costs; `d` is a multiple of 64. The bound is that of
    :func:`scores`.
    """
    queries = _matrix(q, np.float32, "q")
    rows = _f16(keys, "keys")
    if rows.shape[1] != queries.shape[1]:
        raise input_error("keys", f"shape {rows.shape}", f"shape (n, {queries.shape[1]})")
    target = _output(out, (len(queries), len(rows)), q, keys)
    index = choose.index()
    if target.size == 0:
        return target
    if index is None or choose.native is None:
        target[...] = attend_reference.scores_f16(queries, rows)
        return target
    run_scores, m = choose.native.scores_f16, len(queries)

    def run(start: int, stop: int) -> None:
        run_scores(index, m, queries, rows[start:stop], target, start)

    choose.split(run, len(rows), queries.shape[1], threads)
    return target


def weighted_sum_f16(w: F32, values: NDArray[np.float16], *, threads: int | None = None) -> F32:
    """Sums of float16 values ``(n, d)`` under weights ``(m, n)``: float32 ``(m, d)``.

    The counterpart of :func:`weighted_sum` without quantization, with the same bound; `d` is a
    multiple of 64.
    """
    weights, rows = _matrix(w, np.float32, "w"), _f16(values, "values")
    if len(rows) != weights.shape[1]:
        raise input_error("values", f"{len(rows)} rows", f"{weights.shape[1]}, one a weight")
    index, m, dim = choose.index(), len(weights), rows.shape[1]
    if index is None or choose.native is None or weights.size == 0:
        return attend_reference.weighted_sum_f16(weights, rows)
    run_sum = choose.native.weighted_sum_f16

    def run(first: int, stop: int, out: NDArray[np.float64]) -> None:
        run_sum(index, m, dim, SLAB, weights, first, rows[first:stop], out)

    return _slabs(run, len(rows), m, dim, threads)


def _slabs(
    run: Callable[[int, int, NDArray[np.float64]], None],
    n: int,
    m: int,
    dim: int,
    threads: int | None,
) -> F32:
    """Run over whole slabs of vectors and add their sums in order."""
    sums = np.empty((-(-n // SLAB), m, dim))

    def part(start: int, stop: int) -> None:
        run(start * SLAB, min(stop * SLAB, n), sums[start:stop])

    choose.split(part, len(sums), SLAB * dim, threads)
    total: F32 = sums.sum(axis=0).astype(np.float32)
    return total


def _matrix(array: object, dtype: DTypeLike, where: str) -> NDArray[Any]:
    """`array` as a C-contiguous, aligned matrix of `dtype`, copied only if it is not."""
    if not isinstance(array, np.ndarray):
        raise input_error(where, f"a {type(array).__name__}", "a NumPy array")
    if array.dtype != dtype:
        raise input_error(where, f"dtype {array.dtype}", f"dtype {np.dtype(dtype)}")
    if array.ndim != 2:
        raise input_error(where, f"shape {array.shape}", "two axes")
    return np.require(array, requirements=["C", "A"])


def _decoded_sum(w: F32, packed: NDArray[np.uint8], layout: TrellisLayout, dim: int) -> F32:
    total = np.zeros((len(w), dim))
    for at in range(0, len(packed), SLAB):
        groups = packed[at : at + SLAB].reshape(-1, layout.group_bytes)
        values = decode(groups, layout, rotated=True).reshape(-1, dim)
        total += w[:, at : at + SLAB].astype(np.float64) @ values.astype(np.float64)
    return total.astype(np.float32)


def _packed(
    blocks: object, layout: Layout, dim: int | None, rows: int | None = None
) -> NDArray[np.uint8]:
    """Blocks of vectors of `dim` values, or of any whole number of groups if that is None."""
    found = _matrix(blocks, np.uint8, "blocks")
    if dim is not None and (dim == 0 or dim % layout.group):
        raise input_error("q", f"{dim} values a query", f"a multiple of {layout.group}")
    width = found.shape[1] if dim is None else dim // layout.group * layout.group_bytes
    if found.shape[1] != width or width == 0 or width % layout.group_bytes:
        legal = f"(n, {width})" if dim else f"(n, a multiple of {layout.group_bytes})"
        raise input_error("blocks", f"shape {found.shape}", legal)
    if rows is not None and len(found) != rows:
        raise input_error("blocks", f"{len(found)} rows", f"{rows}, one a weight")
    return found


def _f16(array: object, where: str) -> NDArray[np.float16]:
    found = _matrix(array, np.float16, where)
    if found.shape[1] == 0 or found.shape[1] % F16_GRAIN:
        raise input_error(where, f"shape {found.shape}", f"rows of a multiple of {F16_GRAIN}")
    return found


def _output(out: object, shape: tuple[int, int], *inputs: NDArray[Any]) -> F32:
    target: F32 = checks.output(out, shape, np.float32, inputs[0])
    if out is not None:
        if not target.flags.aligned:
            raise input_error("out", "an unaligned array", "an aligned one")
        if any(np.may_share_memory(target, source) for source in inputs):
            raise input_error("out", "memory of an input", "memory of its own")
    return target


def _int8_table(layout: TurboLayout) -> tuple[NDArray[np.int8], np.float32]:
    table = _int8_tables.get(layout)
    if table is None:
        table = _int8_tables[layout] = attend_reference.int8_centroids(layout)
    return table


__all__ = [
    "quantize_query",
    "scores",
    "scores_f16",
    "scores_int8",
    "weighted_sum",
    "weighted_sum_f16",
]
