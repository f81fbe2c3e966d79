"""The accumulator: merging, resampling, nothing at all."""

import numpy as np
import pytest

from tqcli.metrics.attention import Scoring, attend
from tqcli.metrics.attention_keys import Error, Keys
from tqcli.metrics.attention_stats import FIELDS, MEASURES, AttentionStats, merged
from tqcli.metrics.causal import Span

SPAN, SCORING = Span(0, 48), Scoring(0.125)


@pytest.fixture
def case(gaussian):
    """Queries, keys and an error of one KV head."""
    k, v = gaussian(48, 64, seed=3), gaussian(48, 64, seed=4)
    k_new, v_new = k + 0.2 * gaussian(48, 64, seed=5), v + 0.1 * gaussian(48, 64, seed=6)
    error = Error.of(k, k_new, v, v_new, sinks=SCORING.sinks)
    return gaussian(3, 48, 64, seed=8), Keys.of(k, v), error


def part(case, positions, key=0):
    """Stats of some positions."""
    q, keys, error = case
    (stats,) = attend(q[:, positions], keys, [error], SPAN, positions, SCORING, key)
    return stats


def same(a, b):
    """Equal rows, and the same set of divergences."""
    assert np.array_equal(a.keys, b.keys)
    assert np.allclose(a.table, b.table, rtol=1e-12, atol=0)
    left, right = (np.sort(np.concatenate(s.divergences, axis=1), axis=1) for s in (a, b))
    assert np.array_equal(left, right)


def test_merge_is_associative_and_commutative(case):
    """Pieces come in any order and from any thread."""
    a, b, c = (part(case, np.arange(48)[i::3], key=i % 2) for i in range(3))
    same(a.merge(b).merge(c), a.merge(b.merge(c)))
    same(a.merge(b), b.merge(a))
    same(a.merge(AttentionStats()), a)
    same(merged([a, b, c]), a.merge(b).merge(c))


def test_positions_apart_or_together(case):
    """Cutting the queries changes no figure."""
    whole = part(case, np.arange(48)).measures()
    cut = part(case, np.arange(20)).merge(part(case, np.arange(20, 48))).measures()
    assert cut == {name: pytest.approx(value, rel=1e-4) for name, value in whole.items()}


def test_heads_of_a_position_share_its_row(case):
    """A token is one unit of the bootstrap, however many KV heads it has."""
    one = part(case, np.arange(48))
    both = one.merge(one)
    assert both.keys.size == 48
    assert both.measures()["queries"] == 2 * one.measures()["queries"]
    assert both.measures()["output_error_k"] == one.measures()["output_error_k"]


def test_nothing_measured():
    """No query gives no figure instead of a warning."""
    assert AttentionStats().measures() == dict.fromkeys(MEASURES)
    assert set(AttentionStats().intervals().values()) == {None}


def test_interval_of_equal_positions_is_a_point():
    """Where all positions agree, a sample of them is as good as all."""
    table = np.tile(np.arange(1, len(FIELDS) + 1, dtype=float), (30, 1))
    stats = AttentionStats.of(0, np.arange(30), table, np.zeros((3, 30)))
    low, high = stats.intervals(resamples=50)["output_error_k"]
    assert low == high == pytest.approx(stats.measures()["output_error_k"])


def test_interval_has_the_width_it_claims():
    """Over many samples of known positions, 95 % intervals hold the truth about as often."""
    random = np.random.default_rng(19)
    errors = random.exponential(1.0, 5000)
    hits = 0
    for trial in range(200):
        table = np.zeros((80, len(FIELDS)))
        table[:, 0] = 1
        table[:, FIELDS.index("signal")] = 1
        table[:, FIELDS.index("k_all")] = random.choice(errors, 80)
        stats = AttentionStats.of(0, np.arange(80), table, np.zeros((3, 80)))
        low, high = stats.intervals(resamples=200, seed=trial)["output_error_k"]
        hits += low <= errors.mean() <= high
    assert 0.87 <= hits / 200 <= 0.99
