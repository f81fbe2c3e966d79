"""What turbo and trellis codecs share: groups that are rotated together, one fp16 scale a group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli import kernels
from tqcli.codecs.base import Blocks, Codec, Floats, VectorError, first_nonfinite, nonfinite_error
from tqcli.kernels.layout import Layout
from tqcli.kernels.weighting import weigh

FP16_MAX = 65504.0


class GroupCodec(Codec):
    """A codec whose bytes :mod:`tqcli.kernels` writes and reads by a layout."""

    takes_weights = True

    def __init__(self, name: str, layout: Layout, largest: float) -> None:
        """Take over a layout; vectors up to a norm of about `largest` fit its fp16."""
        self.id = name
        self.largest = largest
        self.layout = layout
        self.values_per_block = layout.block
        self.block_bytes = layout.block_bytes

    @property
    def alignment(self) -> int:
        """A vector is padded to whole groups."""
        return self.layout.group

    def _encode(self, flat: Floats) -> Blocks:
        groups = flat.reshape(-1, self.layout.group)
        blocks = kernels.encode(groups, self.layout)
        self._check_norms(blocks, flat)
        return blocks

    def _encode_weighted(self, flat: Floats, weights: NDArray[np.float64]) -> Blocks:
        group, size = self.layout.group, self.layout.group_bytes
        blocks = np.empty((len(flat), flat.shape[1] // group, size), np.uint8)
        for number, part in enumerate(weights.reshape(-1, group)):
            values = np.ascontiguousarray(flat[:, number * group : (number + 1) * group])
            blocks[:, number] = kernels.encode(values, self.layout, weights=weigh(part, group))
        self._check_norms(blocks.reshape(-1, size), flat)
        return blocks.reshape(len(flat), -1)

    def _check_norms(self, blocks: Blocks, flat: Floats) -> None:
        # NaN, Inf, a square beyond float32 and a norm beyond fp16 all end in the stored norm, so
        # the input needs no pass of its own.
        norms = kernels.norms(blocks, self.layout)[:, 0]
        bad = ~np.isfinite(norms)
        if not bad.any():
            return
        group = int(np.argmax(bad))
        vector = group // (flat.shape[1] // self.layout.group)
        if (place := first_nonfinite(flat)) is not None:
            raise nonfinite_error(flat, place)
        row = flat[vector]
        length = float(np.linalg.norm(row.astype(np.float64)))
        raise VectorError(
            vector,
            None,
            f"norm {length:.6g} does not fit the fp16 of a {self.id} block; "
            f"{self.largest:.6g} is the largest, scale the tensor or keep it in another format",
        )

    def _decode(self, flat: Blocks, rotated: bool, dtype: np.dtype[Any]) -> Floats:
        groups = flat.reshape(-1, self.layout.group_bytes)
        self._check_stored(groups, flat.shape[0])
        values = kernels.decode(groups, self.layout, rotated=rotated, dtype=dtype)
        return values.reshape(flat.shape[0], -1)

    def _check_stored(self, groups: Blocks, vectors: int) -> None:
        norms = kernels.norms(groups, self.layout)
        bad = ~np.isfinite(norms) | (norms < 0)
        if bad.any():
            group = int(np.argmax(bad.any(axis=1)))
            value = norms[group][bad[group]][0]
            what = f"stored norm is {value}; a norm is finite and not negative, these bytes are no "
            raise VectorError(group * vectors // groups.shape[0], None, f"{what}{self.id} block")

    def codes(self, blocks: Blocks) -> Blocks:
        """Levels of every stored value, shape ``(..., padded head_dim)``."""
        flat, stored = self._flat(blocks)
        groups = flat.reshape(-1, self.layout.group_bytes)
        return kernels.codes(groups, self.layout).reshape(*blocks.shape[:-2], stored)

    def _lengths(self, flat: Blocks) -> NDArray[np.float16]:
        norms = kernels.norms(flat.reshape(-1, self.layout.group_bytes), self.layout)
        return norms[:, 0].reshape(flat.shape[0], -1)
