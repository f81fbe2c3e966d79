"""What happened to the vectors: error energy and cosine, as mergeable accumulators.

All sums are float64. Per-vector cosines are kept, so that percentiles of merged accumulators are
exact and not estimates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(eq=False)
class VectorStats:
    """Errors of vectors; add pieces, merge accumulators, then ask.

    ``nmse`` is error energy over signal energy, pooled. Percentiles are of per-vector cosines,
    lower tail, linear interpolation. A zero vector that stays zero has cosine 1; one side zero
    gives 0.
    """

    values: int = 0
    error: float = 0.0
    signal: float = 0.0
    max_abs_error: float = 0.0
    _cosines: list[F64] = field(default_factory=list)
    _relative: list[F64] = field(default_factory=list)

    def add(self, x: NDArray[Any], decoded: NDArray[Any]) -> None:
        """Count vectors `x` and what they decode to, both ``(n, head_dim)``."""
        if not x.size:
            return
        a, b = x.astype(np.float64), decoded.astype(np.float64)
        difference = b - a
        error = np.einsum("ij,ij->i", difference, difference)
        signal = np.einsum("ij,ij->i", a, a)
        self.values += x.size
        self.error += float(error.sum())
        self.signal += float(signal.sum())
        self.max_abs_error = max(self.max_abs_error, float(np.abs(difference).max()))
        self._cosines.append(_cosines(a, b, signal))
        with np.errstate(divide="ignore", invalid="ignore"):
            self._relative.append(np.where(error == 0, 0.0, error / signal))

    def merge(self, other: VectorStats) -> VectorStats:
        """The accumulator of both."""
        return VectorStats(
            self.values + other.values,
            self.error + other.error,
            self.signal + other.signal,
            max(self.max_abs_error, other.max_abs_error),
            self._cosines + other._cosines,
            self._relative + other._relative,
        )

    @property
    def cosines(self) -> F64:
        """Cosine of every vector, in the order they came."""
        return np.concatenate(self._cosines) if self._cosines else np.empty(0)

    @property
    def relative_errors(self) -> F64:
        """Error energy over signal energy of every vector."""
        return np.concatenate(self._relative) if self._relative else np.empty(0)

    def measures(self) -> dict[str, float | int | None]:
        """The figures by name; None where there is nothing to measure."""
        cosines = self.cosines
        if not cosines.size:
            return dict.fromkeys(MEASURES) | {"vectors": 0}
        p50, p1, p01 = np.percentile(cosines, [50, 1, 0.1])
        return {
            "vectors": int(cosines.size),
            "mse": self.error / self.values,
            "nmse": _ratio(self.error, self.signal),
            "cosine_mean": float(cosines.mean()),
            "cosine_p50": float(p50),
            "cosine_p1": float(p1),
            "cosine_p01": float(p01),
            "cosine_min": float(cosines.min()),
            "max_abs_error": self.max_abs_error,
        }


MEASURES = (
    "vectors",
    "mse",
    "nmse",
    "cosine_mean",
    "cosine_p50",
    "cosine_p1",
    "cosine_p01",
    "cosine_min",
    "max_abs_error",
)


def _cosines(a: F64, b: F64, signal: F64) -> F64:
    dot = np.einsum("ij,ij->i", a, b)
    other = np.einsum("ij,ij->i", b, b)
    length = np.sqrt(signal * other)
    safe = np.where(length > 0, length, 1.0)
    both_zero = (signal == 0) & (other == 0)
    return np.where(both_zero, 1.0, np.where(length > 0, dot / safe, 0.0))


def _ratio(part: float, whole: float) -> float | None:
    if whole > 0:
        return part / whole
    return 0.0 if part == 0 else None
