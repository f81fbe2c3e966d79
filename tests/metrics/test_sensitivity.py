"""What an error costs attention, against attention itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tqcli.metrics.attention import Scoring
from tqcli.metrics.causal import Span
from tqcli.metrics.sensitivity import Sensitivity

TOKENS, DIM, V_DIM, GROUP = 96, 8, 6, 3


def attention(
    q: Any, k: Any, v: Any, projection: Any, window: int | None, cap: float | None
) -> Any:
    """Outputs behind the projection, ``(heads, tokens, any)``, the plain way."""
    scores = q @ k.T * DIM**-0.5
    if cap is not None:
        scores = cap * np.tanh(scores / cap)
    i, j = np.indices(scores.shape[1:])
    hidden = (j > i) | (j <= i - (window or TOKENS))
    p = np.exp(np.where(hidden, -np.inf, scores))
    p /= p.sum(axis=-1, keepdims=True)
    return p @ v @ projection / np.sqrt(GROUP)


@pytest.mark.parametrize(("window", "cap"), [(None, None), (20, None), (None, 3.0)])
def test_predicts_the_damage(window: int | None, cap: float | None) -> None:
    """Small errors in K or V change the output by as much as the sums say, on average."""
    rng = np.random.default_rng(5)
    q = rng.standard_normal((GROUP, TOKENS, DIM))
    k, v = rng.standard_normal((TOKENS, DIM)), rng.standard_normal((TOKENS, V_DIM))
    projection = rng.standard_normal((V_DIM, V_DIM))
    positions = np.arange(30, TOKENS)
    scoring = Scoring(DIM**-0.5, cap, sinks=4)
    found = Sensitivity(1, DIM)
    found.add(0, q[:, positions], k, v, projection, Span(0, TOKENS, window), positions, scoring)
    power, key, value = found.shares()
    clean = attention(q, k, v, projection, window, cap)
    total = (clean[:, positions] ** 2).sum()
    size, damage = 1e-4, np.zeros(2)
    predicted = np.zeros(2)
    for _ in range(200):
        e_k, e_v = size * rng.standard_normal((TOKENS, DIM)), rng.standard_normal((TOKENS, V_DIM))
        e_k[:4] = e_v[:4] = 0
        e_v *= size
        for i, (keys, values) in enumerate(((k + e_k, v), (k, v + e_v))):
            moved = attention(q, keys, values, projection, window, cap) - clean
            damage[i] += (moved[:, positions] ** 2).sum() / total
        predicted[0] += size**2 * power.sum() * key[0]
        predicted[1] += size**2 * (projection**2).sum() * value[0]
    ratio = damage / predicted
    # The mean of 200 draws; K's share also takes the queries' power as one for all keys, and a
    # soft cap, which damps large scores, is not counted in.
    assert abs(ratio[1] - 1) < 0.1
    assert 0.4 < ratio[0] < 1.6


def test_merge_is_addition() -> None:
    """Queries in two parts give the sums of all, and heads keep their places."""
    rng = np.random.default_rng(6)
    q = rng.standard_normal((2, GROUP, TOKENS, DIM))
    k, v = rng.standard_normal((2, TOKENS, DIM)), rng.standard_normal((2, TOKENS, V_DIM))
    scoring, span = Scoring(DIM**-0.5), Span(0, TOKENS)

    def over(*parts: Any) -> Sensitivity:
        total = Sensitivity(2, DIM)
        for positions in parts:
            for head in range(2):
                one = Sensitivity(2, DIM)
                one.add(
                    head, q[head][:, positions], k[head], v[head], None, span, positions, scoring
                )
                total.merge(one)
        return total

    whole, split = over(np.arange(64, 96)), over(np.arange(64, 70), np.arange(70, 96))
    assert whole.queries == split.queries == 32
    for left, right in zip(whole.shares(), split.shares(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)
