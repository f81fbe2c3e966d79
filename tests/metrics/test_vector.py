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
from tqcli.metrics import VECTOR_MEASURES, Stats

Make = Callable[..., np.ndarray]


def of(x: np.ndarray, decoded: np.ndarray) -> Stats:
    """Statistics of two arrays."""
    stats = Stats()
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
    x = np.zeros((0, 4))
    assert of(x, x).measures() == dict.fromkeys(VECTOR_MEASURES) | {"vectors": 0}
    assert Stats().measures() == Stats.merged([]).measures() == of(x, x).measures()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=4), st.integers(0, 2**31))
def test_split_anywhere(cuts: list[int], seed: int) -> None:
    """Pieces give what the whole gives: sums have one order, and counts have none."""
    random = np.random.default_rng([seed, 1])
    x = random.integers(-50, 50, (60, 4)).astype(np.float32)
    decoded = x + random.integers(-3, 4, x.shape).astype(np.float32)
    pieces, merged = Stats(), Stats()
    for low, high in pairwise([0, *sorted(cuts), 60]):
        pieces.add(x[low:high], decoded[low:high], token=low)
        merged = merged.merge(of(x[low:high], decoded[low:high]))
    whole = of(x, decoded).measures()
    assert pieces.measures() == whole
    # Parts that begin within a unit are added in another order, which integers do not notice.
    assert merged.measures() == whole | {
        "cosine_mean": pytest.approx(whole["cosine_mean"], rel=1e-14)
    }


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
