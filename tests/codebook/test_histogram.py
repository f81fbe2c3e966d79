"""Codebooks from data: histograms that merge, and a fit that has converged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tqcli
from tqcli.codebook import Histogram, distortion, fit, lloyd_max
from tqcli.errors import InputError
from tqcli.pipeline.fit import FitOptions, add_vectors

Make = Callable[..., np.ndarray]


def filled(values: np.ndarray, weights: np.ndarray | None = None) -> Histogram:
    """A histogram of these values."""
    histogram = Histogram()
    histogram.add(values.astype(np.float32), weights)
    return histogram


def sums(histogram: Histogram) -> list[bytes]:
    """What a histogram holds, for comparison by equality."""
    return [part.tobytes() for part in (histogram.weight, histogram.moment, histogram.square)]


# Multiples of 1/16 below 2^5: every sum of them and of their squares is exact in float64.
exact_values = st.lists(st.integers(-300, 300), max_size=60).map(
    lambda numbers: np.array(numbers, np.float32) / 16
)


@settings(max_examples=60, deadline=None)
@given(exact_values, exact_values, exact_values)
def test_merge_is_associative_and_commutative(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    """Shards may be counted anywhere and joined in any order."""
    x, y, z = map(filled, (a, b, c))
    assert sums(x.merge(y).merge(z)) == sums(x.merge(y.merge(z)))
    assert sums(x.merge(y)) == sums(y.merge(x))
    assert sums(x.merge(Histogram())) == sums(x)


@settings(max_examples=60, deadline=None)
@given(exact_values, st.integers(0, 60))
def test_split_anywhere(values: np.ndarray, at: int) -> None:
    """Piece by piece is the same as all at once, in one histogram or two."""
    whole = filled(values)
    assert sums(filled(values[:at]).merge(filled(values[at:]))) == sums(whole)
    grown = filled(values[:at])
    grown.add(values[at:])
    assert sums(grown) == sums(whole)


def test_merge_leaves_its_parts_alone() -> None:
    """An accumulator that is merged twice may not grow."""
    a, b = filled(np.array([1.0])), filled(np.array([2.0]))
    before = sums(a), sums(b)
    merged = a.merge(b)
    merged.add(np.array([3.0], np.float32))
    assert (sums(a), sums(b)) == before
    assert (merged.total, a.total) == (3, 1)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5])
def test_symmetric_fits_mirror_exactly(bits: int, gaussian: Make) -> None:
    """To the last bit, although the data is lopsided: fast kernels fold the sign away."""
    book = fit(filled(gaussian(20_000) + 0.3), bits, 128, "x", symmetric=True)
    assert book.centroids == tuple(-c for c in reversed(book.centroids))
    assert book.boundaries == tuple(-b for b in reversed(book.boundaries))
    assert book.boundaries[len(book.boundaries) // 2] == 0


def test_asymmetric_fit_follows_the_data(gaussian: Make) -> None:
    """Without the mirror the table moves with the mean and loses less."""
    histogram = filled(gaussian(20_000) + 0.5)
    mirrored, free = (fit(histogram, 3, 128, "x", symmetric=s) for s in (True, False))
    assert np.mean(free.centroids) > 0.4 / np.sqrt(128)
    assert distortion(histogram, free) < distortion(histogram, mirrored)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [1, 3, 4])
def test_one_more_step_moves_nothing(bits: int, symmetric: bool, gaussian: Make) -> None:
    """Converged: the mean of each cell is its level already, to 1e-12 standard deviations."""
    histogram = filled(gaussian(100_000))
    book = fit(histogram, bits, 128, "x", symmetric=symmetric)
    weight, moment = histogram.weight, histogram.moment
    if symmetric:
        weight, moment = weight + weight[::-1], moment - moment[::-1]
    used = weight > 0
    points = moment[used] / weight[used]
    levels = np.array(book.centroids) * np.sqrt(128)
    cell = np.searchsorted(np.array(book.boundaries) * np.sqrt(128), points, side="right")
    count = np.bincount(cell, weight[used], 2**bits)
    assert (count > 0).all()
    step = np.bincount(cell, moment[used], 2**bits) / count - levels
    assert np.abs(step).max() < 1e-12


def test_held_out_distortion_approaches_the_exact_table(gaussian: Make) -> None:
    """On Gaussian data a fitted table is nearly the optimum, on values it never saw."""
    _, best = lloyd_max("gaussian", 3)
    exact, _ = lloyd_max("gaussian", 3)
    held = filled(gaussian(400_000, seed=8))
    losses = []
    for count in (1_000, 400_000):
        book = fit(filled(gaussian(count, seed=9)), 3, 1, "x", symmetric=True)
        losses.append(distortion(held, book) / distortion(held, exact) - 1)
    assert losses[1] < losses[0] < 0.05
    assert abs(losses[1]) < 1e-3
    assert distortion(held, exact) == pytest.approx(best, rel=0.01)


def test_distortion_is_what_quantizing_gives(gaussian: Make) -> None:
    """The binned figure against the plain mean over the values themselves."""
    values = gaussian(50_000)
    book, _ = lloyd_max("gaussian", 3)
    levels = np.array(book.centroids)[np.searchsorted(book.boundaries, values, side="right")]
    expected = ((values.astype(np.float64) - levels) ** 2).sum() / (values.astype(float) ** 2).sum()
    assert distortion(filled(values), book) == pytest.approx(expected, rel=1e-6)


def test_energy_weighting(gaussian: Make) -> None:
    """Vectors of another shape decide the table by their energy, or by their number."""
    few_long = np.zeros((10, 128), np.float32)
    few_long[:, 0] = 1000  # rotated: all values alike, +-1 standard deviation
    x = np.concatenate([gaussian(1000, 128), few_long])
    books = {}
    for weight in ("vector", "energy"):
        histogram = Histogram()
        add_vectors(histogram, x, FitOptions(weight=weight))
        books[weight] = fit(histogram, 1, 128, weight, symmetric=True)
    level = {name: book.centroids[1] * np.sqrt(128) for name, book in books.items()}
    assert level["vector"] == pytest.approx(np.sqrt(2 / np.pi), abs=0.01)
    assert level["energy"] == pytest.approx(1, abs=0.01)


def test_lengths_do_not_count_by_default(gaussian: Make) -> None:
    """Scaling a vector changes no rotated unit vector, and so no table."""
    x = gaussian(200, 128)
    a, b = Histogram(), Histogram()
    add_vectors(a, x, FitOptions())
    add_vectors(b, x * np.float32(4), FitOptions())
    assert sums(a) == sums(b)


def test_zero_vectors_say_nothing(gaussian: Make) -> None:
    """They have no direction."""
    x = gaussian(50, 128)
    a, b = Histogram(), Histogram()
    add_vectors(a, x, FitOptions())
    add_vectors(b, np.concatenate([x, np.zeros((9, 128), np.float32)]), FitOptions())
    add_vectors(b, np.zeros((0, 128), np.float32), FitOptions())
    assert sums(a) == sums(b)


def test_too_few_values() -> None:
    """Four values cannot make eight levels, and the error says so."""
    with pytest.raises(InputError, match="4 distinct values; 3 bits need at least 8"):
        fit(filled(np.array([1.0, 2.0, 3.0, 4.0])), 3, 128, "x", symmetric=False)


def test_library_fit_beats_the_stock_table_on_its_data(gaussian: Make) -> None:
    """The point of fitting: heavy tails want other levels than the Gaussian ones."""
    x = gaussian(2000, 128) * (np.arange(128) == 5) * 20 + gaussian(2000, 128, seed=8)
    x = x.astype(np.float32)
    book = tqcli.fit_codebook(x, bits=3)
    fitted, plain = tqcli.codec("turbo3", codebook=book), tqcli.codec("turbo3")
    errors = [
        tqcli.evaluate(x, codec.decode(codec.encode(x), 128))["nmse"] for codec in (fitted, plain)
    ]
    assert errors[0] < 0.97 * errors[1]
    assert book.dim == 128
