"""The specification: every float32 operation of the turbo family, and its order.

Whatever runs in its place (``kernels/native``) gives the same bytes and the same floats for every
input. Vectors stand in columns, so that one NumPy operation advances all of them by one step and
sums run over the elements in index order, as the upstream C reference does.
"""

from __future__ import annotations

import ml_dtypes  # noqa: F401 - registers bfloat16 with NumPy
import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqcli import rotation
from tqcli.kernels.layout import Layout, TurboLayout

NAME = "numpy"
# Below this length a vector counts as zero; upstream's constant.
TINY = np.float32(1e-10)
_CHUNK = 4096  # groups at a time: the working set stays in cache


def encode(x: NDArray[np.generic], layout: TurboLayout) -> NDArray[np.uint8]:
    """Encode groups: norm, rotation, nearest level, packing, corrected norm.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (n, group)
    layout : TurboLayout

    Returns
    -------
    uint8 array, shape (n, group_bytes)
        A non-finite input or one whose norm passes fp16 leaves a non-finite norm (NaN is 0x7e00)
        in the block; codecs refuse those.
    """
    out = np.empty((x.shape[0], layout.group_bytes), np.uint8)
    with np.errstate(all="ignore"):
        for at in range(0, x.shape[0], _CHUNK):
            columns = np.ascontiguousarray(x[at : at + _CHUNK].T.astype(np.float32))
            out[at : at + _CHUNK] = _encode_columns(columns, layout)
    return out


def _encode_columns(x: NDArray[np.float32], layout: TurboLayout) -> NDArray[np.uint8]:
    length = np.sqrt(_sum_of_squares(x))
    inverse = np.where(length > TINY, np.float32(1) / length, np.float32(0))
    y = rotation.rotate_columns(x * inverse)
    codes = np.zeros(y.shape, np.uint8)
    for midpoint in layout.midpoints:
        codes += y >= midpoint
    norm = length
    if layout.corrected:
        decoded = np.sqrt(_sum_of_squares(layout.centroids[codes]))
        norm = np.where(decoded > TINY, length / decoded, length)
    stored = norm.astype(np.float16)
    stored[np.isnan(stored)] = np.float16("nan")  # one NaN: sign and payload are not portable
    return assemble(np.ascontiguousarray(codes.T), stored, layout)


def _sum_of_squares(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    total = np.zeros(columns.shape[1], np.float32)
    for row in columns:
        total += row * row
    return total


def assemble(
    codes: NDArray[np.uint8], norm: NDArray[np.float16], layout: TurboLayout
) -> NDArray[np.uint8]:
    """Blocks ``(n, group_bytes)`` of codes ``(n, group)`` and one norm a group."""
    groups = codes.shape[0]
    blocks = np.zeros((groups, layout.blocks_per_group, layout.block_bytes), np.uint8)
    blocks[:, :, :2] = norm.astype("<f2").view(np.uint8).reshape(groups, 1, 2)
    blocks[:, :, layout.header :] = pack_codes(
        codes.reshape(groups, layout.blocks_per_group, layout.block), layout.bits
    )
    return blocks.reshape(groups, layout.group_bytes)


def decode(
    blocks: NDArray[np.uint8],
    layout: TurboLayout,
    *,
    rotated: bool = False,
    dtype: DTypeLike = np.float32,
) -> NDArray[np.generic]:
    """Decode groups to floats.

    Parameters
    ----------
    blocks : uint8 array, shape (n, group_bytes)
    layout : TurboLayout
    rotated : bool
        True stops before the inverse rotation: ``centroid * norm``, what attention kernels read.
    dtype : float32, float16 or bfloat16
        float16 and bfloat16 are the float32 result rounded to nearest even.

    Returns
    -------
    array of `dtype`, shape (n, group)
    """
    out = np.empty((blocks.shape[0], layout.group), dtype)
    with np.errstate(all="ignore"):
        for at in range(0, blocks.shape[0], _CHUNK):
            part = blocks[at : at + _CHUNK]
            columns = layout.centroids[np.ascontiguousarray(codes(part, layout).T)]
            columns *= norms(part, layout).astype(np.float32).repeat(layout.block, axis=1).T
            if not rotated:
                columns = rotation.unrotate_columns(columns)
            out[at : at + _CHUNK] = columns.T
    return out


def norms(blocks: NDArray[np.uint8], layout: Layout) -> NDArray[np.float16]:
    """Stored norms, shape ``(n, blocks_per_group)``."""
    parts = blocks.reshape(-1, layout.blocks_per_group, layout.block_bytes)
    return np.ascontiguousarray(parts[:, :, :2]).view("<f2")[:, :, 0]


def codes(blocks: NDArray[np.uint8], layout: TurboLayout) -> NDArray[np.uint8]:
    """Level of every value, shape ``(n, group)``."""
    parts = blocks.reshape(-1, layout.blocks_per_group, layout.block_bytes)[:, :, layout.header :]
    return unpack_codes(parts, layout.bits).reshape(blocks.shape[0], layout.group)


def pack_codes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack levels ``(..., block)`` below ``2**bits`` into ``(..., block * bits / 8)`` bytes.

    ::

        bits 2   qs[i/4]    |= code << 2*(i%4)
        bits 3   qs[i/4]    |= (code & 3) << 2*(i%4);  signs[i/8] |= (code >> 2) << (i%8)
        bits 4   qs[i/2]    |= code << 4*(i%2)
    """
    if bits == 4:
        return (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8, copy=False)
    low = codes & 3
    joined = low[..., 0::4] | low[..., 1::4] << 2 | low[..., 2::4] << 4 | low[..., 3::4] << 6
    qs: NDArray[np.uint8] = joined.astype(np.uint8, copy=False)
    if bits == 2:
        return qs
    signs = np.packbits(codes >> 2, axis=-1, bitorder="little")
    return np.concatenate([qs, signs], axis=-1)


def unpack_codes(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Undo :func:`pack_codes`: ``(..., n)`` bytes to ``(..., n * 8 / bits)`` levels."""
    block = packed.shape[-1] * 8 // bits
    shape = (*packed.shape[:-1], block)
    if bits == 4:
        return np.stack([packed & 15, packed >> 4], axis=-1).reshape(shape)
    qs = packed[..., : block // 4, None]
    low: NDArray[np.uint8] = (qs >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(shape)
    if bits == 2:
        return low
    high = np.unpackbits(packed[..., block // 4 :], axis=-1, bitorder="little")
    return (low | high << 2).astype(np.uint8, copy=False)
