"""The turbo family: signed Walsh-Hadamard rotation, Lloyd-Max codes, one corrected norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli import kernels
from tqcli.codebook import Codebook, stock
from tqcli.codecs.base import Blocks, Codec, Floats, VectorError, first_nonfinite, nonfinite_error
from tqcli.errors import InputError
from tqcli.kernels.layout import TurboLayout


@dataclass(frozen=True)
class Spec:
    """One row of the table of layouts that bear the name (``docs/format.md``)."""

    bits: int
    group: int
    block: int
    header: int
    corrected: bool
    codebook: str


SPECS: dict[str, Spec] = {
    # id                bits group block header corrected codebook
    "turbo3": Spec(3, 128, 128, 2, True, "turbo-3bit"),
    "turbo3@2026-03": Spec(3, 128, 128, 2, True, "turbo-3bit@2026-03"),
    "turbo3-b32": Spec(3, 128, 32, 2, True, "turbo-3bit@2026-03"),
    "turbo3-v0": Spec(3, 128, 128, 4, False, "turbo-3bit@2026-03"),
    "turbo2": Spec(2, 128, 128, 2, True, "turbo-2bit"),
    "turbo2-b32": Spec(2, 128, 32, 2, True, "turbo-2bit"),
    "turbo4": Spec(4, 128, 128, 2, True, "turbo-4bit"),
    "turbo4@2026-03": Spec(4, 128, 128, 4, True, "turbo-4bit@2026-03"),
    # One head of 64 in one group: our own ids, where upstream pads the head to 128.
    "turbo2-g64": Spec(2, 64, 64, 2, True, "turbo-2bit"),
    "turbo3-g64": Spec(3, 64, 64, 2, True, "turbo-3bit"),
    "turbo4-g64": Spec(4, 64, 64, 2, True, "turbo-4bit"),
}


class TurboCodec(Codec):
    """A member of the turbo family, with its stock table or another of the same bits."""

    def __init__(self, name: str, codebook: Codebook | None = None) -> None:
        spec = SPECS[name]
        self.id = name
        self.codebook = stock(spec.codebook) if codebook is None else codebook
        self.is_stock = self.codebook == stock(spec.codebook)
        if self.codebook.bits != spec.bits:
            raise InputError(
                f"{name}: codebook {self.codebook.id} has {self.codebook.bits} bits; "
                f"{name} takes {spec.bits}"
            )
        self.layout = TurboLayout(
            spec.bits,
            spec.group,
            spec.block,
            spec.header,
            spec.corrected,
            *self.codebook.for_group(spec.group),
        )
        self.values_per_block = spec.block
        self.block_bytes = self.layout.block_bytes

    def __repr__(self) -> str:
        """The same, with the codebook unless it is the stock one."""
        plain = super().__repr__()
        return plain if self.is_stock else f"{plain[:-1]}, codebook {self.codebook.id}>"

    @property
    def alignment(self) -> int:
        """A vector is padded to whole groups."""
        return self.layout.group

    def config(self) -> dict[str, Any]:
        """The id, and the table unless it is the stock one."""
        if self.is_stock:
            return {"id": self.id}
        return {"id": self.id, "codebook": {"id": self.codebook.id} | self.codebook.table()}

    def _encode(self, flat: Floats) -> Blocks:
        groups = flat.reshape(-1, self.layout.group)
        blocks = kernels.encode(groups, self.layout)
        self._check_norms(blocks, flat)
        return blocks

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
            "65504 is the largest, scale the tensor or keep it in another format",
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
