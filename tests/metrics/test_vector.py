"""Error and cosine accumulators: by hand, at the edges, and merged in any way."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tqcli
from tqcli.errors import InputError
from tqcli.metrics import VectorStats
from tqcli.metrics.vector import MEASURES

Make = Callable[..., np.ndarray]


def of(x: np.ndarray, decoded: np.ndarray) -> VectorStats:
    """Statistics of two arrays."""
    stats = VectorStats()
    stats.add(x, decoded)
    return stats


def test_by_hand() -> None:
    """Two vectors that can be done in the head."""
    x = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)
    decoded = np.array([[3.0, 4.0], [0.0, 2.0]], np.float32)
    measures = of(x, decoded).measures()
    assert measures["vectors"] == 2
    assert measures["mse"] == 5 / 4
    assert measures["nmse"] == 5 / 26
    assert measures["cosine_mean"] == measures["cosine_p50"] == 0.5
    assert measures["cosine_min"] == 0
    assert measures["cosine_p1"] == pytest.approx(0.01)
    assert measures["max_abs_error"] == 2


def test_zero_vectors() -> None:
    """Zero that stays zero is perfect; one side zero is lost; an error on nothing is infinite."""
    zero, one = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    assert of(zero, zero).measures()["cosine_mean"] == 1
    assert of(zero, zero).measures()["nmse"] == 0
    assert of(zero, one).measures()["cosine_mean"] == 0
    assert of(zero, one).measures()["nmse"] is None
    assert of(one, zero).measures()["cosine_mean"] == 0
    assert of(one, zero).measures()["nmse"] == 1
    assert np.isinf(of(zero, one).relative_errors).all()
    assert of(zero, zero).relative_errors.tolist() == [0]


def test_equal_is_exactly_one(gaussian: Make) -> None:
    """No rounding may make a perfect copy less than perfect."""
    x = gaussian(3000, 77)
    measures = of(x, x.copy()).measures()
    assert measures["cosine_min"] == measures["cosine_mean"] == measures["cosine_p01"] == 1
    assert measures["mse"] == measures["nmse"] == measures["max_abs_error"] == 0


def test_extreme_lengths() -> None:
    """Float64 sums: no overflow at 1e30, nothing lost at 1e-30."""
    for scale in (1e30, 1e-30):
        x = np.full((1, 128), scale, np.float32)
        decoded = x.copy()
        decoded[0, 0] = 0
        measures = of(x, decoded).measures()
        assert measures["nmse"] == pytest.approx(1 / 128)
        assert measures["cosine_mean"] == pytest.approx(np.sqrt(127 / 128))


def test_empty() -> None:
    """Nothing to measure is None, and JSON can hold it."""
    assert of(np.zeros((0, 4)), np.zeros((0, 4))).measures() == dict.fromkeys(MEASURES) | {
        "vectors": 0
    }
    assert VectorStats().cosines.size == VectorStats().relative_errors.size == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=4), st.integers(0, 2**31))
def test_split_anywhere(cuts: list[int], seed: int) -> None:
    """Pieces give what the whole gives: percentiles are exact, not estimates."""
    random = np.random.default_rng([seed, 1])
    x = random.integers(-50, 50, (60, 4)).astype(np.float32)
    decoded = x + random.integers(-3, 4, x.shape).astype(np.float32)
    edges = [0, *sorted(cuts), 60]
    pieces, merged = VectorStats(), VectorStats()
    for low, high in pairwise(edges):
        pieces.add(x[low:high], decoded[low:high])
        merged = merged.merge(of(x[low:high], decoded[low:high]))
    # Integer values: float64 sums are exact in any order.
    assert pieces.measures() == merged.measures() == of(x, decoded).measures()


def test_merge_leaves_its_parts_alone(gaussian: Make) -> None:
    """An accumulator that joined a pool still speaks of its own head."""
    a, b = (of(gaussian(5, 8, seed=s), gaussian(5, 8, seed=s + 1)) for s in (1, 3))
    before = a.measures(), b.measures()
    total = a.merge(b)
    total.add(np.ones((1, 8)), np.zeros((1, 8)))
    assert (a.measures(), b.measures()) == before
    assert a.merge(b).measures()["vectors"] == 10


def test_the_array_function_checks() -> None:
    """Shapes that differ, one axis, or NaN are typed errors."""
    ones = np.ones((2, 3, 4), np.float32)
    for x, decoded in ((ones, ones[:1]), (ones[0, 0], ones[0, 0])):
        with pytest.raises(InputError, match="two equal shapes"):
            tqcli.evaluate(x, decoded)
    bad = ones.copy()
    bad[1, 2, 3] = np.nan
    with pytest.raises(InputError, match="the second array holds NaN or Inf"):
        tqcli.evaluate(ones, bad)
