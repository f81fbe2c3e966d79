"""Plain floats as codecs: the baselines that lose nothing, or only rounding."""

from __future__ import annotations

from typing import Any

import numpy as np

from tqcli.codecs.base import BFLOAT16, Blocks, Codec, Floats, VectorError, require_finite

DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "bf16": BFLOAT16,
}


class PlainCodec(Codec):
    """One float a block, rounded to nearest even."""

    values_per_block = 1

    def __init__(self, name: str) -> None:
        self.id = name
        self.dtype = DTYPES[name]
        self.block_bytes = self.dtype.itemsize

    def _encode(self, flat: Floats) -> Blocks:
        require_finite(flat)
        if flat.dtype == self.dtype:
            return flat.copy().view(np.uint8).reshape(flat.shape[0], -1)
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(flat.astype(self.dtype))
        if not (finite := np.isfinite(stored)).all():
            row, column = np.unravel_index(int(np.argmin(finite)), flat.shape)
            what = f"{flat[row, column]} is beyond {self.id}; keep this tensor in bf16 or f32"
            raise VectorError(int(row), int(column), what)
        return stored.view(np.uint8).reshape(flat.shape[0], -1)

    def _decode(self, flat: Blocks, rotated: bool, dtype: np.dtype[Any]) -> Floats:
        return flat.view(self.dtype).astype(dtype)
