"""The first turbo formats, with a 1-bit sketch (QJL) of what the codebook left over.

A block is ``fp16 norm, fp16 rnorm, qs, signs[16]``: codes of the rotated unit vector, and the
sign bits of the residual after a second rotation (signs of seed 1042). They were dropped for
MSE-only codes in March 2026; they are here to compare against, and to read old caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli import rotation
from tqcli.codebook import stock
from tqcli.codecs.base import Blocks, Codec, Floats, VectorError, require_finite
from tqcli.kernels import reference

F32 = NDArray[np.float32]
_GROUP = 128
_HEADER = 4
_SIGN_BYTES = _GROUP // 8
# E|u_i| of a unit vector's rotated coordinate: the scale with the least squared error.
MEANT_SCALE = np.float32(np.sqrt(2 / np.pi) / np.sqrt(_GROUP))
# What the shipped Metal kernel multiplied by, the scale of a Gaussian projection: for an orthogonal
# one about 7.2 times too small.
SHIPPED_SCALE = np.float32(np.sqrt(np.pi / 2) / _GROUP)


@dataclass(frozen=True)
class Spec:
    """How one QJL format is built.

    Parameters
    ----------
    bits : int
        Of a code.
    codebook : str
    scale : float32
        Of the sketch when decoding, times ``rnorm``.
    unrotated : bool
        True takes the residual between the *unrotated* unit vector and the rotated codes.
    """

    bits: int
    codebook: str
    scale: np.float32
    unrotated: bool = False


SPECS: dict[str, Spec] = {
    "turbo3-qjl": Spec(2, "turbo-2bit", MEANT_SCALE),
    # The scale error alone: the published mean cosine of .9508. Same bytes as turbo3-qjl.
    "turbo3-qjl@scale": Spec(2, "turbo-2bit", SHIPPED_SCALE),
    # Both errors of the shipped Metal kernel.
    "turbo3-qjl@shipped": Spec(2, "turbo-2bit", SHIPPED_SCALE, unrotated=True),
    "turbo4-qjl": Spec(3, "turbo-3bit@2026-03", MEANT_SCALE),
}


class QjlCodec(Codec):
    """Codes plus a sign sketch of the residual; raw norm."""

    values_per_block = _GROUP

    def __init__(self, name: str) -> None:
        self.id = name
        self.spec = SPECS[name]
        self.centroids, self.midpoints = stock(self.spec.codebook).for_group(_GROUP)
        self.code_bytes = _GROUP * self.spec.bits // 8
        self.block_bytes = _HEADER + self.code_bytes + _SIGN_BYTES

    def _encode(self, flat: Floats) -> Blocks:
        require_finite(flat)
        groups = np.ascontiguousarray(flat.reshape(-1, _GROUP), np.float32)
        with np.errstate(all="ignore"):
            length, unit = _normalise(groups)
            rotated = rotation.rotate(unit)
            codes = np.searchsorted(self.midpoints, rotated, side="right").astype(np.uint8)
            residual = (unit if self.spec.unrotated else rotated) - self.centroids[codes]
            rest, _ = _normalise(residual)
            sketch = rotation.rotate(residual, which="qjl") < 0
            head = np.stack([length, rest], axis=1).astype("<f2")
        if not np.isfinite(head).all():
            group = int(np.argmin(np.isfinite(head).all(axis=1)))
            what = "norm does not fit the fp16 of the block; 65504 is the largest"
            raise VectorError(group * _GROUP // flat.shape[1], None, what)
        blocks = np.concatenate(
            [
                head.view(np.uint8),
                _pack_stream(codes, self.spec.bits),
                np.packbits(~sketch, axis=1, bitorder="little"),  # 1 is positive
            ],
            axis=1,
        )
        return blocks.reshape(flat.shape[0], -1)

    def _decode(self, flat: Blocks, rotated: bool, dtype: np.dtype[Any]) -> Floats:
        blocks = flat.reshape(-1, self.block_bytes)
        head = np.ascontiguousarray(blocks[:, :_HEADER]).view("<f2").astype(np.float32)
        bad = ~np.isfinite(head).all(axis=1) | (head < 0).any(axis=1)
        if bad.any():
            vector = int(np.argmax(bad)) * flat.shape[0] // blocks.shape[0]
            raise VectorError(vector, None, f"stored norm is not a length; no {self.id} block")
        sign = np.unpackbits(blocks[:, -_SIGN_BYTES:], axis=1, bitorder="little")
        sketch = (sign.astype(np.float32) * 2 - 1) * (head[:, 1:] * self.spec.scale)
        values = self.centroids[self._stored_codes(blocks)]
        values += rotation.unrotate(sketch, which="qjl")
        values *= head[:, :1]
        if not rotated:
            values = rotation.unrotate(values)
        return values.reshape(flat.shape[0], -1).astype(dtype)

    def _lengths(self, flat: Blocks) -> NDArray[np.float16]:
        blocks = flat.reshape(-1, self.block_bytes)
        norms: NDArray[np.float16] = np.ascontiguousarray(blocks[:, :2]).view("<f2")
        return norms.reshape(flat.shape[0], -1)

    def _stored_codes(self, blocks: Blocks) -> NDArray[np.uint8]:
        return _unpack_stream(blocks[:, _HEADER : _HEADER + self.code_bytes], self.spec.bits)

    def codes(self, blocks: Blocks) -> NDArray[np.uint8]:
        """Levels of every stored value, shape ``(..., padded head_dim)``."""
        flat, stored = self._flat(blocks)
        codes = self._stored_codes(flat.reshape(-1, self.block_bytes))
        return codes.reshape(*blocks.shape[:-2], stored)


def _normalise(x: F32) -> tuple[F32, F32]:
    length = np.zeros(x.shape[0], np.float32)
    for column in x.T:
        length += column * column
    length = np.sqrt(length)
    inverse = np.where(length > reference.TINY, np.float32(1) / length, np.float32(0))
    return length, x * inverse[:, None]


def _pack_stream(codes: NDArray[np.uint8], bits: int) -> Blocks:
    """Codes as one LSB-first bit stream; for 2 bits this is the layout of turbo2's ``qs``."""
    planes = codes[:, :, None] >> np.arange(bits, dtype=np.uint8) & 1
    return np.packbits(planes.reshape(codes.shape[0], -1), axis=1, bitorder="little")


def _unpack_stream(packed: Blocks, bits: int) -> NDArray[np.uint8]:
    planes = np.unpackbits(packed, axis=1, bitorder="little").reshape(packed.shape[0], -1, bits)
    return np.asarray((planes << np.arange(bits, dtype=np.uint8)).sum(axis=2, dtype=np.uint8))
