"""What attention on packed blocks computes, in NumPy: decode a few vectors, then multiply.

Unlike the codec, these operations promise accuracy and not bits: a dot product may be summed in
any order. ``attend`` states the bounds. Sums are taken in float64 here, so that the bounds hold in
whatever order a BLAS adds. What is exact is the int8 side: the centroids and the queries below are
the integers that every kernel multiplies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.kernels import reference, trellis_reference
from tqcli.kernels.layout import Layout, TrellisLayout, TurboLayout

F32 = NDArray[np.float32]
PEAK = 127  # largest int8 magnitude in use; -128 has no counterpart
_CHUNK = 2048  # vectors at a time


def scores(q: F32, blocks: NDArray[np.uint8], layout: Layout) -> F32:
    """Dot products of rotated queries ``(m, d)`` with packed keys ``(n, bytes)``: ``(m, n)``."""
    out, wide = np.empty((len(q), len(blocks)), np.float32), q.astype(np.float64)
    for at, keys in _decoded(blocks, layout, q.shape[1]):
        out[:, at : at + len(keys)] = wide @ keys.astype(np.float64).T
    return out


def quantize_query(q: F32) -> tuple[NDArray[np.int8], F32]:
    """Queries ``(m, d)`` as int8 ``(m, d)`` in -127..127 and float32 scales ``(m,)``.

    ``q8 = rint(q / scale)``, ``scale = max|q| / 127``; a query of zeros has scale 0.
    """
    scale = np.abs(q).max(axis=1, initial=0.0) / np.float32(PEAK)
    safe = np.where(scale > 0, scale, np.float32(1)).astype(np.float64)
    levels = np.rint(q.astype(np.float64) / safe[:, None])
    return np.clip(levels, -PEAK, PEAK).astype(np.int8), scale.astype(np.float32)


def int8_centroids(layout: TurboLayout) -> tuple[NDArray[np.int8], np.float32]:
    """Centroids as int8 and the float32 worth of one unit.

    The largest one is put on the integer from 64 to 127 for which the others fall closest to
    integers; the levels of a table lie so apart that this halves the error of always taking 127.
    """
    centroids = layout.centroids.astype(np.float64)
    largest = np.abs(centroids).max(initial=0.0)
    if largest == 0:
        return np.zeros(len(centroids), np.int8), np.float32(0)
    units = largest / np.arange((PEAK + 1) // 2, PEAK + 1)
    levels = np.rint(centroids / units[:, None])  # (units, centroids)
    best = int(np.argmin(np.square(levels * units[:, None] - centroids).sum(axis=1)))
    return levels[best].astype(np.int8), np.float32(units[best])


def scores_int8(q8: NDArray[np.int8], scale: F32, blocks: NDArray[np.uint8], layout: Layout) -> F32:
    """Dot products of int8 queries with packed keys whose centroids are int8 as well."""
    if isinstance(layout, TrellisLayout):
        return scores(q8.astype(np.float32), blocks, layout) * scale[:, None]
    centroids, unit = int8_centroids(layout)
    integers = TurboLayout(
        layout.bits,
        layout.group,
        layout.block,
        layout.header,
        layout.corrected,
        centroids.astype(np.float32),
        layout.midpoints,
    )
    return scores(q8.astype(np.float32), blocks, integers) * (scale * unit)[:, None]


def weighted_sum(w: F32, blocks: NDArray[np.uint8], layout: Layout, dim: int) -> F32:
    """Sums of packed vectors ``(n, bytes)`` under weights ``(m, n)``: float32 ``(m, dim)``."""
    total = np.zeros((len(w), dim))
    for at, values in _decoded(blocks, layout, dim):
        total += w[:, at : at + len(values)].astype(np.float64) @ values.astype(np.float64)
    return total.astype(np.float32)


def scores_f16(q: F32, keys: NDArray[np.float16]) -> F32:
    """Dot products of queries ``(m, d)`` with float16 keys ``(n, d)``: ``(m, n)``."""
    out, wide = np.empty((len(q), len(keys)), np.float32), q.astype(np.float64)
    for at in range(0, len(keys), _CHUNK):
        out[:, at : at + _CHUNK] = wide @ keys[at : at + _CHUNK].astype(np.float64).T
    return out


def weighted_sum_f16(w: F32, values: NDArray[np.float16]) -> F32:
    """Sums of float16 vectors ``(n, d)`` under weights ``(m, n)``: float32 ``(m, d)``."""
    total = np.zeros((len(w), values.shape[1]))
    for at in range(0, len(values), _CHUNK):
        part = values[at : at + _CHUNK].astype(np.float64)
        total += w[:, at : at + _CHUNK].astype(np.float64) @ part
    return total.astype(np.float32)


def _decoded(
    blocks: NDArray[np.uint8], layout: Layout, dim: int
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Runs of vectors, decoded and still rotated, with the place of the first."""
    for at in range(0, len(blocks), _CHUNK):
        groups = blocks[at : at + _CHUNK].reshape(-1, layout.group_bytes)
        if isinstance(layout, TrellisLayout):
            values = trellis_reference.decode(groups, layout, rotated=True)
        else:
            values = reference.decode(groups, layout, rotated=True)
        yield at, values.reshape(-1, dim)
