"""The turbo family: signed Walsh-Hadamard rotation, Lloyd-Max codes, one corrected norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tqcli.codebook import Codebook, stock
from tqcli.codecs.group import FP16_MAX, GroupCodec
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


class TurboCodec(GroupCodec):
    """A member of the turbo family, with its stock table or another of the same bits."""

    def __init__(self, name: str, codebook: Codebook | None = None) -> None:
        spec = SPECS[name]
        self.codebook = stock(spec.codebook) if codebook is None else codebook
        self.is_stock = self.codebook == stock(spec.codebook)
        if self.codebook.bits != spec.bits:
            raise InputError(
                f"{name}: codebook {self.codebook.id} has {self.codebook.bits} bits; "
                f"{name} takes {spec.bits}"
            )
        layout = TurboLayout(
            spec.bits,
            spec.group,
            spec.block,
            spec.header,
            spec.corrected,
            *self.codebook.for_group(spec.group),
        )
        super().__init__(name, layout, FP16_MAX)

    def __repr__(self) -> str:
        """The same, with the codebook unless it is the stock one."""
        plain = super().__repr__()
        return plain if self.is_stock else f"{plain[:-1]}, codebook {self.codebook.id}>"

    def config(self) -> dict[str, Any]:
        """The id, and the table unless it is the stock one."""
        if self.is_stock:
            return {"id": self.id}
        return {"id": self.id, "codebook": {"id": self.codebook.id} | self.codebook.table()}
