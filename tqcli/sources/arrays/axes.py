"""Axis orders: from whatever an engine wrote to (batch, heads, seq_len, head_dim)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError, UsageError

STANDARD = ("batch", "head", "seq", "dim")
SIDES = ("k", "v", "q")
_KNOWN = (
    *STANDARD,
    "layer",
    "side",
    "hidden",
)  # hidden: all heads' values in one axis, head by head


@dataclass(frozen=True)
class Axes:
    """What the axes of an array mean, outermost first.

    Parameters
    ----------
    names : tuple of str
        From ``layer``, ``side`` (K then V), ``batch``, ``head``, ``seq``, ``dim``, ``hidden``.
        ``seq`` and one of ``dim`` and ``hidden`` are needed; what is missing has length one.
    heads : int or None
        Number of heads in ``hidden``.
    """

    names: tuple[str, ...]
    heads: int | None = None

    def __post_init__(self) -> None:
        """Refuse orders that cannot be undone."""
        text = ",".join(self.names)
        unknown = [name for name in self.names if name not in _KNOWN]
        if unknown or len(set(self.names)) != len(self.names):
            raise UsageError(f"--axes {text}: legal are {', '.join(_KNOWN)}, each at most once")
        if "seq" not in self.names or ("dim" in self.names) == ("hidden" in self.names):
            raise UsageError(f"--axes {text}: 'seq' and one of 'dim' and 'hidden' are needed")
        if "hidden" in self.names and "head" in self.names:
            raise UsageError(f"--axes {text}: 'hidden' holds the heads; drop 'head'")
        if "hidden" in self.names and (self.heads is None or self.heads < 1):
            raise UsageError(f"--axes {text}: 'hidden' needs the number of heads: --heads N")

    @classmethod
    def parse(cls, text: str, heads: int | None = None) -> Axes:
        """Read ``'layer,batch,head,seq,dim'``."""
        return cls(tuple(name.strip() for name in text.split(",")), heads)

    def length(self, name: str, shape: tuple[int, ...]) -> int:
        """Length of an axis; 1 where there is none."""
        return shape[self.names.index(name)] if name in self.names else 1

    def check(self, where: str, shape: tuple[int, ...]) -> None:
        """Refuse an array that these axes do not describe."""
        if len(shape) != len(self.names):
            raise InputError(
                f"{where}: shape {shape} has {len(shape)} axes; --axes names"
                f" {len(self.names)}: {','.join(self.names)}"
            )
        sides = self.length("side", shape)
        if "side" in self.names and sides != 2:
            raise InputError(f"{where}: {sides} long along 'side'; legal is 2, K and then V")
        hidden = self.length("hidden", shape)
        if self.heads and "hidden" in self.names and hidden % self.heads:
            raise InputError(
                f"{where}: {hidden} values a token do not divide into {self.heads} heads"
            )

    def standard_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Shape of one layer's K or V after :meth:`standard`."""
        batch, heads, seq, dim = (self.length(name, shape) for name in STANDARD)
        if "hidden" in self.names and self.heads:
            heads, dim = self.heads, self.length("hidden", shape) // self.heads
        return batch, heads, seq, dim

    def fixed(self, layer: int, side: str) -> dict[int, int]:
        """Index along the axes that choose a layer and a side."""
        chosen: Mapping[str, int] = {"layer": layer, "side": SIDES.index(side)}
        return {axis: chosen[name] for axis, name in enumerate(self.names) if name in chosen}

    def standard(self, slab: NDArray[Any]) -> NDArray[Any]:
        """One layer's K or V as a contiguous ``(batch, heads, seq_len, head_dim)``.

        Parameters
        ----------
        slab : array
            Its axes are :attr:`names` without ``layer`` and ``side``.

        Examples
        --------
        >>> Axes.parse("seq,hidden", heads=2).standard(np.zeros((5, 6))).shape
        (1, 2, 5, 3)
        """
        names = [name for name in self.names if name not in ("layer", "side")]
        if "hidden" in names and self.heads:
            at = names.index("hidden")
            shape = (
                *slab.shape[:at],
                self.heads,
                slab.shape[at] // self.heads,
                *slab.shape[at + 1 :],
            )
            slab = slab.reshape(shape)
            names[at : at + 1] = ["head", "dim"]
        order = [names.index(name) for name in STANDARD if name in names]
        slab = slab.transpose(order)
        for position, name in enumerate(STANDARD):
            if name not in names:
                slab = np.expand_dims(slab, position)
        return np.ascontiguousarray(slab)
