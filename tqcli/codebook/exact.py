"""Lloyd-Max codebooks of a known density, to machine precision.

A rotated unit vector of dimension d has the marginal density ``(1 - t^2)^((d - 3) / 2)``; for
large d, times sqrt(d), it is N(0, 1). Both are even, so only the positive half is iterated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tqcli.codebook.table import Codebook, midpoints
from tqcli.errors import UsageError

F64 = NDArray[np.float64]
Distribution = Literal["gaussian", "sphere"]

TOLERANCE = 1e-14  # largest move of a level in one step; the error left is below 1e-12
_MAX_STEPS = 1_000_000
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_GAUSSIAN_END = 40.0  # exp(-800) is zero in float64


@dataclass(frozen=True)
class _Density:
    """An even density in an integration variable u >= 0, with the value x(u) it stands for."""

    end: float
    weight: Callable[[F64], F64]
    value: Callable[[F64], F64]
    variable: Callable[[F64], F64]  # x -> u


def _gaussian() -> _Density:
    return _Density(
        _GAUSSIAN_END, lambda u: np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi), lambda u: u, lambda x: x
    )


def _sphere(dim: int) -> _Density:
    # t = sin(u) takes the endpoint singularity away; scaled by sqrt(dim) to unit variance.
    root = np.sqrt(dim)
    # A large dimension is a narrow peak: 64 panels resolve it.
    half = float(_panels(np.linspace(0, np.pi / 2, 65), lambda u: np.cos(u) ** (dim - 2)).sum())
    return _Density(
        np.pi / 2,
        lambda u: np.cos(u) ** (dim - 2) / (2 * half),
        lambda u: root * np.sin(u),
        lambda x: np.arcsin(np.clip(x / root, 0, 1)),
    )


def _panels(edges: F64, function: Callable[[F64], F64]) -> F64:
    """Integrals of `function` between neighbouring `edges`, by Gauss-Legendre."""
    centre, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    u = centre[:, None] + half[:, None] * _NODES
    return np.asarray((function(u) * _WEIGHTS).sum(axis=1) * half)


def lloyd_max(distribution: Distribution, bits: int, dim: int = 128) -> tuple[Codebook, float]:
    """Optimal codebook of a density, and its distortion relative to the variance.

    Parameters
    ----------
    distribution : {"gaussian", "sphere"}
        N(0, 1), or the marginal of the unit sphere in `dim` dimensions.
    bits : int
        1 to 8.
    dim : int
        Dimension of the sphere, at least 3; the Gaussian ignores it.

    Returns
    -------
    (Codebook, float)
        A Gaussian table has ``dim=1`` (unit variance), a sphere table is in units of the unit
        vector of `dim` values.

    Examples
    --------
    >>> book, distortion = lloyd_max("gaussian", 3)
    >>> round(distortion, 6), round(book.centroids[-1], 5)
    (0.034548, 2.15195)
    """
    if not 1 <= bits <= 8:
        raise UsageError(f"{bits} bits; 1 to 8 are legal")
    if distribution == "sphere" and dim < 3:
        raise UsageError(f"sphere of dimension {dim}; 3 or more is legal")
    density = _gaussian() if distribution == "gaussian" else _sphere(dim)
    levels, distortion = _iterate(density, 2 ** (bits - 1))
    unit = 1 if distribution == "gaussian" else dim
    both = np.concatenate([-levels[::-1], levels]) / (1.0 if unit == 1 else np.sqrt(unit))
    centroids = tuple(float(c) for c in both)
    name = distribution if unit == 1 else f"sphere{dim}"
    book = Codebook(f"{name}-{bits}bit", bits, unit, centroids, _symmetric_midpoints(centroids))
    return book, distortion


def _symmetric_midpoints(centroids: tuple[float, ...]) -> tuple[float, ...]:
    edges = midpoints(centroids[len(centroids) // 2 :])
    return (*(-e for e in reversed(edges)), 0.0, *edges)


def _iterate(density: _Density, count: int) -> tuple[NDArray[Any], float]:
    """Lloyd's two conditions in turn, with the error extrapolated from the last steps."""
    widest = min(4.0, float(density.value(np.array(density.end))))
    levels = (np.arange(count) + 0.5) * (widest / count)
    previous = 0.0
    for _ in range(_MAX_STEPS):
        inner = density.variable((levels[1:] + levels[:-1]) / 2)
        edges = np.concatenate([[0.0], inner, [density.end]])
        mass, moment = _cells(edges, density)
        updated = moment / mass
        step = float(np.abs(updated - levels).max())
        levels = updated
        # Steps shrink by a steady ratio r, so what is left is step * r / (1 - r).
        ratio = min(step / previous, 0.999999) if previous else 0.999999
        previous = step
        if step <= TOLERANCE or step * ratio / (1 - ratio) < TOLERANCE:
            break
    return levels, float(1 - 2 * np.sum(levels * levels * mass))


def _cells(edges: F64, density: _Density) -> tuple[F64, F64]:
    """Mass and first moment between `edges`; the open last cell is cut into panels."""
    last = np.linspace(edges[-2], min(edges[-2] + 12.0, edges[-1]), 17)
    fine = np.concatenate([edges[:-1], last[1:]])
    mass = _panels(fine, density.weight)
    moment = _panels(fine, lambda u: density.weight(u) * density.value(u))
    cells = edges.size - 1
    return (
        np.append(mass[: cells - 1], mass[cells - 1 :].sum()),
        np.append(moment[: cells - 1], moment[cells - 1 :].sum()),
    )


def distortion_on_gaussian(book: Codebook) -> float:
    """Mean squared error of a codebook on N(0, 1) values scaled to its unit, over the variance.

    Examples
    --------
    >>> from tqcli.codebook import stock
    >>> old, new = (distortion_on_gaussian(stock(n)) for n in ("turbo-4bit@2026-03", "turbo-4bit"))
    >>> f"+{old / new - 1:.0%} MSE"
    '+113% MSE'
    """
    scale = np.sqrt(book.dim)
    inner = np.asarray(book.boundaries) * scale
    tails = np.linspace(1, 13, 17)  # the open cells, cut into panels
    edges = np.concatenate([(inner[0] + 1 - tails)[::-1], inner[1:-1], inner[-1] - 1 + tails])
    level = np.asarray(book.centroids)[
        np.searchsorted(inner, (edges[1:] + edges[:-1]) / 2, side="right")
    ]
    density = _gaussian()
    mass = _panels(edges, density.weight)
    moment = _panels(edges, lambda u: density.weight(u) * u)
    square = _panels(edges, lambda u: density.weight(u) * u * u)
    error = square - 2 * level * scale * moment + (level * scale) ** 2 * mass
    return float(error.sum())
