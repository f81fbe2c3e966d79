"""Lloyd-Max codebooks of a known density, to machine precision.

A rotated unit vector of dimension d has the marginal density ``(1 - t^2)^((d - 3) / 2)``; for
large d, times sqrt(d), it is N(0, 1). Both are even, so only the positive half is iterated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tqcli.codebook.table import Codebook, midpoints
from tqcli.errors import UsageError

F64 = NDArray[np.float64]
Distribution = Literal["gaussian", "sphere"]

TOLERANCE = 1e-14  # largest distance of a level from the mean of its cell; then a last step
# Levels are rounded to this many decimals of a standard deviation: the last bits of exp and sin
# differ between machines, and a table should not.
DECIMALS = 12
_LLOYD_STEPS = 30  # before Newton's method takes over
_MAX_STEPS = 1000
_NODES = 48  # of the Gauss-Legendre rule in each panel
_END = 13.0  # standard deviations; exp(-13^2 / 2) is 2e-37


@dataclass(frozen=True)
class _Density:
    """An even density in an integration variable u >= 0, with the value x(u) it stands for."""

    end: float
    weight: Callable[[F64], F64]
    value: Callable[[F64], F64]
    variable: Callable[[F64], F64]  # x -> u


def _gaussian() -> _Density:
    return _Density(
        _END, lambda u: np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi), lambda u: u, lambda x: x
    )


def _sphere(dim: int) -> _Density:
    # t = sin(u) takes the endpoint singularity away; scaled by sqrt(dim) to unit variance.
    root = np.sqrt(dim)
    end = min(np.pi / 2, _END / np.sqrt(dim - 2))  # cos(u) <= exp(-u^2 / 2)

    def power(u: F64) -> F64:  # cos(u) ** (dim - 2), exact where the cosine is nearly 1
        return np.asarray(np.exp((dim - 2) * np.log1p(-2 * np.sin(u / 2) ** 2)))

    half = float(_panels(np.linspace(0, end, 65), power).sum())
    return _Density(
        end,
        lambda u: power(u) / (2 * half),
        lambda u: root * np.sin(u),
        lambda x: np.arcsin(np.clip(x / root, 0, 1)),
    )


def _panels(edges: F64, function: Callable[[F64], F64]) -> F64:
    """Integrals of `function` between neighbouring `edges`, by Gauss-Legendre."""
    centre, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    nodes, weights = _rule()
    u = centre[:, None] + half[:, None] * nodes
    return np.asarray((function(u) * weights).sum(axis=1) * half)


@cache
def _rule() -> tuple[F64, F64]:
    """Nodes and weights, made when first needed: this module is imported with every codec."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return nodes, weights


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
    """Lloyd's two conditions in turn; near the fixed point, Newton's method on them."""
    levels: NDArray[Any] = _spread(density, count)
    for number in range(_MAX_STEPS):
        edges = _edges(levels, density)
        mass, moment = _cells(edges, density)
        gap = moment / mass - levels
        step = gap
        if number >= _LLOYD_STEPS:
            newton = np.linalg.solve(np.eye(count) - _slopes(levels, edges, mass, density), gap)
            ahead = levels + newton
            if ahead[0] > 0 and (np.diff(ahead) > 0).all():
                step = newton
        levels = levels + step
        if np.abs(gap).max() < TOLERANCE:
            break
    levels = np.round(levels, DECIMALS)
    mass, moment = _cells(_edges(levels, density), density)
    error = 1 - 2 * np.sum(levels * (2 * moment - levels * mass))
    return levels, round(float(error), DECIMALS)


def _spread(density: _Density, count: int) -> F64:
    """Where to start: levels as dense as the cube root of the density, best for many levels."""
    u = np.linspace(0, density.end, 4097)
    x, width = density.value(u), np.diff(density.value(u))
    height = density.weight((u[1:] + u[:-1]) / 2) * np.diff(u) / width
    share = np.concatenate([[0.0], np.cumsum(np.cbrt(height) * width)])
    return np.asarray(np.interp((np.arange(count) + 0.5) * (share[-1] / count), share, x))


def _edges(levels: F64, density: _Density) -> F64:
    inner = density.variable((levels[1:] + levels[:-1]) / 2)
    return np.concatenate([[0.0], inner, [density.end]])


def _slopes(levels: F64, edges: F64, mass: F64, density: _Density) -> F64:
    """How the mean of each cell moves with each level: half as its edges do; tridiagonal."""
    x = (levels[1:] + levels[:-1]) / 2
    # Density of x itself: that of u over dx/du, by the chain rule.
    step = 1e-6 * density.end
    stretch = (density.value(edges[1:-1] + step) - density.value(edges[1:-1] - step)) / (2 * step)
    height = density.weight(edges[1:-1]) / stretch / 2
    up = height * (x - levels[:-1]) / mass[:-1]  # the upper edge of a cell
    down = height * (levels[1:] - x) / mass[1:]  # its lower edge
    slopes = np.diag(up, 1) + np.diag(down, -1)
    return slopes + np.diag(slopes.sum(axis=1))


def _cells(edges: F64, density: _Density) -> tuple[F64, F64]:
    """Mass and first moment between `edges`; the open last cell is cut into panels."""
    last = np.linspace(edges[-2], edges[-1], 17)
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
