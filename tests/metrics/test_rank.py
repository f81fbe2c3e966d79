"""Spearman's rank correlation."""

from __future__ import annotations

import numpy as np
import pytest

from tqcli.errors import InputError
from tqcli.metrics.rank import rank_correlations, spearman


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_scipy(seed: int) -> None:
    """Ties included."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 6, 40), rng.standard_normal(40)
    assert spearman(x, y) == pytest.approx(float(stats.spearmanr(x, y).statistic), abs=1e-14)


def test_order_is_all_that_counts() -> None:
    """A curve that rises is a straight line to it; one that falls is its negative."""
    x = np.linspace(0.1, 3, 17)
    assert spearman(x, np.exp(x)) == 1.0
    assert spearman(x, 1 / x) == -1.0
    assert np.isnan(spearman(x, np.ones_like(x)))


def test_rows() -> None:
    """Measures come strongest first; text, flags, constants and rare figures are left out."""
    rows = [
        {
            "name": str(i),
            "kl": float(i),
            "good": i**2,
            "bad": (i * 3) % 5,
            "flat": 1.0,
            "flag": i > 2,
        }
        for i in range(5)
    ]
    rows[0]["rare"] = rows[1]["rare"] = 1.0
    found = rank_correlations(rows, "kl")
    assert [(entry["measure"], entry["rows"]) for entry in found] == [("good", 5), ("bad", 5)]
    assert found[0]["spearman"] == 1.0
    assert rank_correlations(rows, "kl", ["bad"]) == found[1:]


def test_lists_of_unequal_length() -> None:
    """One line, no broadcast."""
    with pytest.raises(InputError, match="two lists"):
        spearman([1, 2, 3], [1, 2])
