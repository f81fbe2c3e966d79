"""A cache that is broken on purpose: a bench that calls it fine measures nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tqcli.codecs import Codec, Domain, codec
from tqcli.codecs.base import Blocks, Floats
from tqcli.codecs.heads import HeadCodecs
from tqcli.plan.plan import Plan
from tqcli.plan.types import SideType

NAME = "canary"


class CanaryCodec(Codec):
    """turbo4 whose reader forgets to rotate back: the commonest mistake of a port."""

    def __init__(self) -> None:
        self.base = codec("turbo4")
        self.id = NAME
        self.values_per_block, self.block_bytes = self.base.values_per_block, self.base.block_bytes

    def _encode(self, flat: Floats) -> Blocks:
        return self.base._encode(flat)

    def _decode(self, flat: Blocks, rotated: bool, dtype: np.dtype[Any]) -> Floats:
        return self.base._decode(flat, True, dtype)

    def decode(
        self,
        blocks: Blocks,
        head_dim: int | None = None,
        *,
        domain: Domain = "original",
        dtype: DTypeLike = np.float32,
    ) -> Floats:
        """The rotated values, cut to `head_dim` as if they were the original ones."""
        values = self.base.decode(blocks, domain="rotated", dtype=dtype)
        return values if head_dim is None else values[..., :head_dim]


@dataclass(frozen=True)
class CanaryType(SideType):
    """The type that no user can name."""

    name: str = NAME

    def __post_init__(self) -> None:
        """Nothing to look up."""

    def codecs_for(self, layer: int, side: str, heads: int, head_dim: int) -> HeadCodecs:
        """The canary, for every head."""
        return HeadCodecs((CanaryCodec(),))


def canary_plan() -> Plan:
    """K and V of every layer broken."""
    return Plan(CanaryType(), CanaryType(), label=NAME)
