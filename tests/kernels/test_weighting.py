"""Weights and their factor: the algebra, and what comes of weights that make no sense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tqcli import rotation
from tqcli.errors import InputError
from tqcli.kernels.weighting import RIDGE, factor, rotated_weights, weigh


def _weights(group: int, seed: int = 83) -> Any:
    return np.exp(np.random.default_rng(seed).standard_normal(group))


@pytest.mark.parametrize("group", [64, 128])
def test_rotated_weights(group: int) -> None:
    """S is the rotation times the weights times its transpose."""
    weights = _weights(group)
    matrix = rotation.rotate(np.eye(group, dtype=np.float32), group).astype(np.float64).T
    expected = matrix * weights @ matrix.T
    assert np.allclose(rotated_weights(weights), expected, atol=1e-6 * weights.max())


@pytest.mark.parametrize("group", [64, 128])
def test_factor(group: int) -> None:
    """S = L' D L with ones on L's diagonal, to float64's last digits."""
    square = rotated_weights(_weights(group) + RIDGE)
    costs, lower = factor(square)
    full = lower + np.eye(group)
    assert (np.triu(lower) == 0).all()
    assert (costs > 0).all()
    assert np.allclose(full.T * costs @ full, square, rtol=0, atol=1e-12 * square.max())


def test_cost_is_the_weighted_error() -> None:
    """The sum of squares that encoders add up is the error before the rotation, weighted."""
    group, rng = 128, np.random.default_rng(89)
    weighed = weigh(_weights(group), group)
    error = rng.standard_normal(group).astype(np.float32)
    rotated = rotation.rotate(error[None])[0].astype(np.float64)
    moved = rotated + rotated @ weighed.feedback.astype(np.float64)
    cost = (weighed.costs * moved**2).sum()
    assert cost == pytest.approx((weighed.weights * error.astype(np.float64) ** 2).sum(), rel=1e-4)


def test_halves_of_rope_do_not_speak_to_each_other() -> None:
    """Weights that repeat after half a group leave exact zeros, which kernels skip."""
    half = _weights(64)
    weighed = weigh(np.concatenate([half, half]), 128)
    assert not weighed.feedback[:64, 64:].any()
    assert (weighed.reach[:64] <= 64).all()
    assert weighed.reach[-1] == 128
    assert (weigh(_weights(128), 128).reach[:-1] == 128).all()


def test_only_ratios_count() -> None:
    """A calibration's sums, its means, and either scaled to the edges of float64 are one."""
    weights = _weights(64)
    expected = weigh(weights, 64).packed
    for scale in (2.0**-900, 2.0**20, 2.0**900):
        assert np.array_equal(weigh(weights * scale, 64).packed, expected)
    assert weigh(weights, 64).weights.mean() == pytest.approx(1 + RIDGE, rel=1e-6)


def test_equal_and_zero_weights_are_no_weights() -> None:
    """Both leave nothing to feed forward, and every value costs the same."""
    for weights in (np.full(64, 3.0), np.zeros(64)):
        weighed = weigh(weights, 64)
        assert not weighed.feedback.any()
        assert np.ptp(weighed.costs) == 0


def test_one_hot_weights() -> None:
    """The ridge keeps the factor finite where all but one value is worth nothing."""
    weights = np.zeros(128)
    weights[17] = 1e-300
    weighed = weigh(weights, 128)
    assert np.isfinite(weighed.packed).all()
    assert (weighed.costs > 0).all()
    assert weighed.weights[17] == pytest.approx(128 + RIDGE)


@pytest.mark.parametrize(
    ("weights", "what"),
    [
        (np.ones(32), r"shape \(32,\)"),
        (np.ones((2, 64)), r"shape \(2, 64\)"),
        (np.ones(64, np.int32), "int32"),
        ([1.0] * 64, "list"),
        (np.where(np.arange(64) == 9, np.nan, 1.0), "nan at 9"),
        (np.where(np.arange(64) == 3, np.inf, 1.0), "inf at 3"),
        (np.where(np.arange(64) == 63, -1e-9, 1.0), "-1e-09 at 63"),
    ],
)
def test_bad_weights(weights: Any, what: str) -> None:
    """One line each: what came, what is allowed."""
    with pytest.raises(InputError, match=what) as caught:
        weigh(weights, 64)
    assert "\n" not in str(caught.value)


def test_factors_are_remembered() -> None:
    """A cache that grows token by token factors its weights once."""
    assert weigh(_weights(64), 64) is weigh(_weights(64).copy(), 64)
    with pytest.raises(ValueError, match="read-only"):
        weigh(_weights(64), 64).packed[0] = 0
