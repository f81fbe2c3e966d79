"""Without a calibration: means and scales of the cache itself, no prediction, no basis.

Nothing is known of queries, so each head of K and of V is measured by its own root mean square, and
a step of 0.1 means a tenth of it. The side data is small enough to lie in the archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.archive import tables
from tqcli.archive.code import Code, Group, layer_of
from tqcli.archive.weights import plain

F64 = NDArray[np.float64]


class Spread:
    """Sums of K (before RoPE) or V of one layer, from which its mean and scales come."""

    def __init__(self) -> None:
        self.tokens = 0
        self._sum: Any = 0.0
        self._square: Any = 0.0

    def add(self, x: NDArray[Any]) -> None:
        """Add values of some tokens, ``(num_kv_heads, tokens, dim)``."""
        values = x.astype(np.float64)
        self.tokens += x.shape[1]
        self._sum = self._sum + values.sum(axis=1)
        self._square = self._square + np.square(values).sum(axis=1)

    def mean(self) -> F64:
        """``(num_kv_heads, dim)``."""
        mean: F64 = self._sum / max(self.tokens, 1)
        return mean

    def scale(self) -> F64:
        """Root mean square about the mean, ``(num_kv_heads,)``; 1 for heads that never change."""
        variance = self._square / max(self.tokens, 1) - np.square(self.mean())
        scale: F64 = np.sqrt(np.maximum(variance.mean(axis=1), 0))
        return np.where(scale > 0, scale, 1.0)


def plain_code(spreads: Sequence[tuple[Spread, Spread]], step: float) -> Code:
    """The side data of a cache without a calibration.

    Parameters
    ----------
    spreads : sequence of (of K, of V)
        One pair a layer.
    step : float
        In root mean squares.
    """
    layers, groups = [], []
    for of_k, of_v in spreads:
        k_mean, v_mean = of_k.mean(), of_v.mean()
        weight = plain(of_k.scale(), of_v.scale(), k_mean.shape[1], v_mean.shape[1])
        layers.append(layer_of(k_mean, v_mean, weight.k, weight.v, step))
        width = layers[-1].width
        expected = np.full(width, tables.nearest(np.array(0.5**0.5 / step)), np.uint8)
        groups.append(Group(width, None, None, None, expected))
    return Code(float(step), 1, 0, layers, groups)
