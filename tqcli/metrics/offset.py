"""K as softmax sees it: without what is common to all keys of a head.

A constant added to every key shifts all scores of a query alike, and softmax does not see it. So
the error that counts is the one left after the mean over tokens is taken from K and from decoded
K, against what is left of K. A large common offset hides this from cosine and plain error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli import rotation

F64 = NDArray[np.float64]
_GROUP = 128  # kurtosis is taken in the turbo family's rotated domain


@dataclass(eq=False)
class _Head:
    """Sums over the tokens of one head of one sequence."""

    count: int
    key_sum: F64
    error_sum: F64
    key_energy: float = 0.0
    error_energy: float = 0.0


@dataclass(eq=False)
class OffsetStats:
    """Accumulates K per head; every (sequence, layer, head) has a mean of its own.

    Pieces are added under a key that names the head; merging joins heads by that key.
    """

    heads: dict[Any, _Head] = field(default_factory=dict)
    second: float = 0.0
    fourth: float = 0.0
    rotated_values: int = 0

    def add(self, key: Any, k: NDArray[Any], decoded: NDArray[Any]) -> None:
        """Count keys `k` and what they decode to, both ``(n, head_dim)``, of the head `key`."""
        if not k.size:
            return
        a = k.astype(np.float64)
        error = decoded.astype(np.float64) - a
        head = self.heads.get(key)
        if head is None:
            head = self.heads[key] = _Head(0, np.zeros(a.shape[1]), np.zeros(a.shape[1]))
        head.count += a.shape[0]
        head.key_sum += a.sum(axis=0)
        head.error_sum += error.sum(axis=0)
        head.key_energy += float(np.einsum("ij,ij->", a, a))
        head.error_energy += float(np.einsum("ij,ij->", error, error))
        self._add_moments(a)

    def _add_moments(self, a: F64) -> None:
        length = np.sqrt(np.einsum("ij,ij->i", a, a))
        unit = (a / np.where(length > 0, length, 1.0)[:, None]).astype(np.float32)
        # A head of 64 padded to 128 only repeats its 64 rotated values.
        group = 64 if a.shape[1] % _GROUP == 64 else _GROUP
        padding = -a.shape[1] % group
        y = rotation.rotate(np.pad(unit, ((0, 0), (0, padding))), group).astype(np.float64)
        square = y * y
        self.second += float(square.sum())
        self.fourth += float(np.einsum("ij,ij->", square, square))
        self.rotated_values += y.size

    def merge(self, other: OffsetStats) -> OffsetStats:
        """The accumulator of both."""
        merged = OffsetStats(
            dict(self.heads),
            self.second + other.second,
            self.fourth + other.fourth,
            self.rotated_values + other.rotated_values,
        )
        for key, head in other.heads.items():
            own = merged.heads.get(key)
            merged.heads[key] = head if own is None else _join(own, head)
        return merged

    def measures(self) -> dict[str, float | None]:
        """``centred_nmse``, ``offset_ratio`` (norm of the mean over RMS of the rest), ``kurtosis``.

        None where nothing is left after centring (a single token, equal keys).
        """
        error = rest = offset = 0.0
        for head in self.heads.values():
            mean_energy = float(head.key_sum @ head.key_sum) / head.count
            offset += mean_energy
            rest += max(head.key_energy - mean_energy, 0.0)
            lost = float(head.error_sum @ head.error_sum) / head.count
            error += max(head.error_energy - lost, 0.0)
        # Float64 sums of equal keys leave rounding dust, not a signal.
        empty = rest <= 1e-12 * offset
        kurtosis = None
        if self.second > 0:
            kurtosis = self.fourth * self.rotated_values / self.second**2 - 3
        return {
            "centred_nmse": None if empty else error / rest,
            "offset_ratio": None if empty else float(np.sqrt(offset / rest)),
            "kurtosis": kurtosis,
        }


MEASURES = ("centred_nmse", "offset_ratio", "kurtosis")


def _join(a: _Head, b: _Head) -> _Head:
    return _Head(
        a.count + b.count,
        a.key_sum + b.key_sum,
        a.error_sum + b.error_sum,
        a.key_energy + b.key_energy,
        a.error_energy + b.error_energy,
    )
