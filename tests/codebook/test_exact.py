"""Lloyd-Max for known densities, against formulas and quadrature that are not the library's."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ndtr

from tqcli.codebook import Codebook, distortion_on_gaussian, lloyd_max, stock
from tqcli.errors import UsageError

# Max (1960) and every textbook since.
DISTORTIONS = {1: 0.363380, 2: 0.117482, 3: 0.034548, 4: 0.009501}
GAUSSIAN_8 = (0.245094, 0.756005, 1.343909, 2.151946)
SPHERE128_8 = (0.244425, 0.753330, 1.336599, 2.131471)


@pytest.mark.parametrize(("bits", "expected"), DISTORTIONS.items())
def test_distortion_of_the_normal_density(bits: int, expected: float) -> None:
    """The known optimum to six digits, from the fit and from integrating over the table."""
    book, distortion = lloyd_max("gaussian", bits)
    assert round(distortion, 6) == expected
    assert distortion_on_gaussian(book) == pytest.approx(distortion, abs=1e-12)


def test_levels_of_the_normal_density() -> None:
    """The eight levels of the textbooks (.2451 .7560 1.344 2.152), to six digits."""
    book, _ = lloyd_max("gaussian", 3)
    assert tuple(round(c, 6) for c in book.centroids[4:]) == GAUSSIAN_8


@pytest.mark.parametrize("bits", range(1, 9))
def test_fixed_point(bits: int) -> None:
    """Each level is the mean of its cell, each boundary the mean of its neighbours: to 1e-12."""
    book, _ = lloyd_max("gaussian", bits)
    levels = np.array(book.centroids[2 ** (bits - 1) :])
    edges = np.array([0.0, *book.boundaries[2 ** (bits - 1) :], np.inf])
    assert np.array_equal(edges[1:-1], (levels[1:] + levels[:-1]) / 2)
    density = np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi)
    mass = ndtr(-edges[:-1]) - ndtr(-edges[1:])
    assert np.abs((density[:-1] - density[1:]) / mass - levels).max() < 1e-12


@pytest.mark.parametrize(("dim", "bits"), [(128, 1), (128, 3), (64, 3), (128, 4), (3, 2), (576, 3)])
def test_fixed_point_on_the_sphere(dim: int, bits: int) -> None:
    """The same on the marginal of the sphere, by adaptive quadrature of the raw density."""

    def density(t: float) -> float:
        return (1 - t * t) ** ((dim - 3) / 2)

    book, distortion = lloyd_max("sphere", bits, dim)
    assert book.dim == dim
    levels = book.centroids[2 ** (bits - 1) :]
    edges = (0.0, *book.boundaries[2 ** (bits - 1) :], 1.0)
    kept = 0.0
    for (low, high), level in zip(pairwise(edges), levels, strict=True):
        mass, _ = quad(density, low, high, epsabs=0, epsrel=1e-13)
        moment, _ = quad(lambda t: t * density(t), low, high, epsabs=0, epsrel=1e-13)
        assert abs(moment / mass - level) * np.sqrt(dim) < 2e-12
        kept += level * moment
    total, _ = quad(density, 0, 1, epsabs=0, epsrel=1e-13)
    # Energy of a coordinate is 1/dim; what the levels keep is not lost.
    assert distortion == pytest.approx(1 - dim * kept / total, abs=1e-10)


def test_levels_of_the_sphere() -> None:
    """Eight levels for 128 dimensions, converged; the table in circulation is not (.24445...)."""
    book, _ = lloyd_max("sphere", 3, 128)
    assert tuple(round(c * np.sqrt(128), 6) for c in book.centroids[4:]) == SPHERE128_8


def test_three_dimensions_are_uniform() -> None:
    """A case known in closed form: on the ordinary sphere the marginal is uniform."""
    book, distortion = lloyd_max("sphere", 2, 3)
    assert np.allclose(book.centroids, [-0.75, -0.25, 0.25, 0.75], atol=1e-12)
    assert distortion == pytest.approx(1 / 16)


@pytest.mark.parametrize("distribution", ["gaussian", "sphere"])
def test_mirror_and_order(distribution: str) -> None:
    """An even density has a table that mirrors exactly, with the middle boundary at 0."""
    for bits in range(1, 6):
        book, _ = lloyd_max(distribution, bits, 128)
        assert book.centroids == tuple(-c for c in reversed(book.centroids))
        assert book.boundaries == tuple(-b for b in reversed(book.boundaries))


def test_error_falls_with_bits() -> None:
    """About 6 dB a bit, and never up."""
    distortions = [lloyd_max("sphere", bits, 128)[1] for bits in range(1, 9)]
    ratios = np.array(distortions[1:]) / distortions[:-1]
    assert (ratios < 0.34).all()
    assert (ratios > 0.24).all()


def test_the_sphere_becomes_normal() -> None:
    """In many dimensions the marginal is N(0, 1)."""
    flat, _ = lloyd_max("sphere", 3, 1_000_000)
    normal, _ = lloyd_max("gaussian", 3)
    assert np.allclose(np.array(flat.centroids) * 1000, normal.centroids, atol=1e-5)


@pytest.mark.parametrize(("bits", "dim"), [(0, 128), (9, 128), (3, 2), (3, 0)])
def test_what_there_is_no_table_for(bits: int, dim: int) -> None:
    """A request outside the range names it."""
    with pytest.raises(UsageError, match="legal"):
        lloyd_max("sphere", bits, dim)


def test_the_old_four_bit_table_doubles_the_error() -> None:
    """+113 %: the defect that was in circulation for three months."""
    old, new = (distortion_on_gaussian(stock(n)) for n in ("turbo-4bit@2026-03", "turbo-4bit"))
    assert f"{old / new - 1:+.0%}" == "+113%"


@pytest.mark.parametrize(
    ("name", "bits"), [("turbo-2bit", 2), ("turbo-3bit", 3), ("turbo-4bit", 4)]
)
def test_stock_tables_are_near_the_optimum(name: str, bits: int) -> None:
    """What is in use today loses less than half a percent on Gaussian values."""
    _, best = lloyd_max("gaussian", bits)
    assert best <= distortion_on_gaussian(stock(name)) < best * 1.005


def test_distortion_by_quadrature() -> None:
    """A table that is far off, by plain adaptive integration of the squared error."""
    book = Codebook("odd", 2, 1, (-3.0, -0.1, 0.2, 1.0), (-1.5, 0.0, 0.9))
    edges = (-12.0, *book.boundaries, 12.0)
    expected = sum(
        quad(lambda x, c=c: (x - c) ** 2 * np.exp(-x * x / 2), low, high, epsabs=1e-13)[0]
        for (low, high), c in zip(pairwise(edges), book.centroids, strict=True)
    ) / np.sqrt(2 * np.pi)
    assert distortion_on_gaussian(book) == pytest.approx(expected, abs=1e-9)
