"""Sums over tokens: one tree, however the tokens come."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tqcli.metrics.sums import TokenSums


def of(values: np.ndarray, start: int = 0) -> TokenSums:
    """Sums whose units hold these values."""
    sums = TokenSums(1)
    for number, value in enumerate(values, start):
        sums.unit(number)[:] += value
    return sums


def test_the_tree_written_out() -> None:
    """Pairs, pairs of pairs, and what is left from the first to the last."""
    a, b, c, d, e, f, g = values = np.random.default_rng(2).standard_normal(7)
    assert of(values).total() == [((a + b) + (c + d)) + (e + f) + g]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 13, 64])
def test_parts_merge_to_the_same_bits(count: int) -> None:
    """Cut at any unit, merged in any order."""
    random = np.random.default_rng(count)
    values = random.standard_normal(count) * np.exp(random.uniform(-20, 20, count))
    whole = of(values).total()
    for _ in range(20):
        edges = [0, *sorted(random.integers(0, count + 1, 3)), count]
        parts = [of(values[a:b], a) for a, b in pairwise(edges)]
        merged = TokenSums(1)
        for part in random.permutation(len(parts)):
            merged = merged.merge(parts[part])
        assert merged.total().tobytes() == whole.tobytes()


def test_few_sums_are_held() -> None:
    """As many as the number of units has bits, and the one that is open."""
    sums = of(np.ones(1000))
    assert len(sums._nodes) <= 11
    assert sums.total() == [1000]


def test_parts_stay_as_they_are() -> None:
    """A head that joined a pool still speaks of itself."""
    a, b = of(np.ones(3)), of(np.ones(5), 3)
    merged = a.merge(b)
    merged.unit(8)[:] += 100
    assert (a.total(), b.total(), merged.total()) == ([3], [5], [108])
