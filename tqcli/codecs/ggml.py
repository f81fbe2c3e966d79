"""The cache types of mainline llama.cpp, through the `gguf` package."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli import rotation
from tqcli.codecs.base import Blocks, Codec, Floats, VectorError, require_finite
from tqcli.errors import InputError

# Bytes of a block by id, as ggml has them.
BLOCK_BYTES = {"q8_0": 34, "q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "iq4_nl": 18}
_WITH_MINIMUM = ("q4_1", "q5_1")  # fp16 scale, fp16 minimum
_MIN_ROTATION = 64


class GgmlCodec(Codec):
    """One ggml block type; 32 values a block, no padding."""

    values_per_block = 32

    def __init__(self, name: str) -> None:
        self.id = name
        self.block_bytes = BLOCK_BYTES[name]

    def padded_dim(self, head_dim: int) -> int:
        """`head_dim` itself: llama.cpp refuses heads that are no multiple of the block."""
        if head_dim < 1 or head_dim % self.values_per_block:
            raise InputError(
                f"{self.id}: head_dim {head_dim} is no multiple of {self.values_per_block}; "
                "llama.cpp refuses it too, choose a turbo type or f16"
            )
        return head_dim

    def _encode(self, flat: Floats) -> Blocks:
        require_finite(flat)
        values = flat.astype(np.float32)
        with np.errstate(all="ignore"):
            if self.id == "iq4_nl":
                blocks = _encode_iq4_nl(values.reshape(-1, self.values_per_block))
            else:
                blocks = _gguf("quantize", values, self.id)
        self._check_scales(blocks, flat)
        return np.ascontiguousarray(blocks).reshape(flat.shape[0], -1)

    def _check_scales(self, blocks: Blocks, flat: Floats) -> None:
        finite = self._finite_scales(blocks)
        if not finite.all():
            row = int(np.argmin(finite)) * self.values_per_block // flat.shape[1]
            largest = float(np.abs(flat[row].astype(np.float64)).max())
            what = f"largest value {largest:.6g} needs a scale beyond fp16 in a {self.id} block"
            raise VectorError(row, None, f"{what}; keep this tensor in bf16 or f32")

    def _finite_scales(self, blocks: Blocks) -> NDArray[np.bool_]:
        """Whether the scale of each block, and the minimum where the type has one, is finite."""
        parts = np.ascontiguousarray(blocks).reshape(-1, self.block_bytes)
        count = 2 if self.id in _WITH_MINIMUM else 1
        heads = np.ascontiguousarray(parts[:, : 2 * count]).view("<f2")
        return np.asarray(np.isfinite(heads).all(axis=1))

    def _decode(self, flat: Blocks, rotated: bool, dtype: np.dtype[Any]) -> Floats:
        finite = self._finite_scales(flat)
        if not finite.all():
            row = int(np.argmin(finite)) * self.block_bytes // flat.shape[1]
            raise VectorError(row, None, f"stored scale is not finite; no {self.id} block")
        return np.asarray(_gguf("dequantize", flat, self.id)).astype(dtype)


def _gguf(what: str, array: NDArray[Any], name: str) -> NDArray[Any]:
    """Quantize or dequantize with the `gguf` package, which takes long to import."""
    import gguf

    made: NDArray[Any] = getattr(gguf.quants, what)(array, gguf.GGMLQuantizationType[name.upper()])
    return made


class RotatedCodec(Codec):
    """A ggml type behind the Hadamard transform without signs that llama.cpp applies since #21038.

    K uses the largest power of two from 64 that divides head_dim, V always 64. The id carries the
    size (``q4_0+rot128``): the size is part of the stored bytes.
    """

    def __init__(self, base: Codec, size: int) -> None:
        if size < _MIN_ROTATION or size & (size - 1):
            raise InputError(f"{base.id}+rot{size}: sizes are powers of two from {_MIN_ROTATION}")
        self.base, self.size = base, size
        self.id = f"{base.id}+rot{size}"
        self.values_per_block, self.block_bytes = base.values_per_block, base.block_bytes

    @property
    def alignment(self) -> int:
        """Whole rotations."""
        return self.size

    def padded_dim(self, head_dim: int) -> int:
        """`head_dim` itself, which the rotation must divide."""
        if head_dim < 1 or head_dim % self.size:
            raise InputError(
                f"{self.id}: head_dim {head_dim} is no multiple of {self.size}; "
                f"llama.cpp does not rotate such heads, use {self.base.id}"
            )
        return self.base.padded_dim(head_dim)

    def _encode(self, flat: Floats) -> Blocks:
        require_finite(flat)
        return self.base._encode(rotation.hadamard(flat.astype(np.float32), self.size))

    def _decode(self, flat: Blocks, rotated: bool, dtype: np.dtype[Any]) -> Floats:
        values = self.base._decode(flat, False, np.dtype(np.float32)).astype(np.float32)
        return (values if rotated else rotation.hadamard(values, self.size)).astype(dtype)


def rotation_size(side: str, head_dim: int) -> int:
    """Size of llama.cpp's Hadamard transform for one side of the cache.

    Raises
    ------
    InputError
        If llama.cpp would not rotate (head_dim no multiple of 64).
    """
    if head_dim % _MIN_ROTATION:
        raise InputError(
            f"+rot: head_dim {head_dim} is no multiple of {_MIN_ROTATION}; "
            "llama.cpp does not rotate such heads, leave +rot out"
        )
    return _MIN_ROTATION if side == "v" else head_dim & -head_dim


# gguf decodes iq4_nl and does not encode it. This is ggml's reference rule: the scale that puts
# the largest value on level -127, then one least-squares refit with weights x^2.
_IQ4_LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
_IQ4_EDGES = (_IQ4_LEVELS[1:] + _IQ4_LEVELS[:-1]) / 2
_IQ4_TINY = np.float32(1e-15)  # ggml's GROUP_MAX_EPS: below it a block is zero


def _encode_iq4_nl(rows: NDArray[np.float32]) -> Blocks:
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    empty = np.abs(largest) < _IQ4_TINY
    inverse = np.where(empty, np.float32(0), 1 / (largest / _IQ4_LEVELS[0]))
    codes = np.searchsorted(_IQ4_EDGES, rows * inverse, side="right").astype(np.uint8)
    levels = _IQ4_LEVELS[codes]
    weight = rows * rows
    top = np.zeros((rows.shape[0], 1), np.float32)
    bottom = np.zeros_like(top)
    for i in range(rows.shape[1]):  # float32 sums in index order, as ggml's
        top[:, 0] += weight[:, i] * levels[:, i] * rows[:, i]
        bottom[:, 0] += weight[:, i] * levels[:, i] * levels[:, i]
    scale = np.where(empty, np.float32(0), top / bottom).astype("<f2")
    half = rows.shape[1] // 2
    return np.concatenate([scale.view(np.uint8), codes[:, :half] | codes[:, half:] << 4], axis=1)
