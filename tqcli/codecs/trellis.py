"""The trellis family: turbo's rotation and bytes, codes that share a table by their context.

A value is one of ``2**window`` table entries, found by the bits of its own symbol and of those
before it (``docs/format.md``); the encoder searches all paths. In the bytes of turbo3 the error on
Gaussian values is three fifths of turbo3's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tqcli.codebook import stock_trellis
from tqcli.codecs.group import FP16_MAX, GroupCodec
from tqcli.kernels.layout import TRELLIS_UNIT, TrellisLayout


@dataclass(frozen=True)
class Spec:
    """Bits a value, and values that are rotated and scaled together."""

    bits: int
    group: int


SPECS: dict[str, Spec] = {
    "trellis2": Spec(2, 128),
    "trellis3": Spec(3, 128),
    "trellis4": Spec(4, 128),
    "trellis2-g64": Spec(2, 64),
    "trellis3-g64": Spec(3, 64),
    "trellis4-g64": Spec(4, 64),
}


class TrellisCodec(GroupCodec):
    """A member of the trellis family with its shipped table; ``codes`` are table entries."""

    def __init__(self, name: str) -> None:
        spec = SPECS[name]
        entries = np.rint(stock_trellis(spec.bits).array() / TRELLIS_UNIT).astype(np.int8)
        layout = TrellisLayout(spec.bits, spec.group, entries)
        super().__init__(name, layout, FP16_MAX * spec.group**0.5)
