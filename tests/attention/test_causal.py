"""Which keys a query sees."""

import numpy as np
import pytest

from tqcli.metrics.causal import Span, sample_positions, spans, tiles


def by_rule(span, positions, first, last):
    """The mask, key by key."""
    rows = []
    for position in positions:
        oldest = 0 if span.window is None else position - span.window + 1
        rows.append([not oldest <= key <= position for key in range(first, last)])
    return np.array(rows)


@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
@pytest.mark.parametrize("positions", [[0], [0, 1, 2], [5, 6, 9], [9], [2, 7]])
def test_hidden_is_the_rule(window, positions):
    """A mask that is one token off leaks the future into every figure."""
    span, chosen = Span(0, 10, window), np.array(positions)
    first, last = span.keys(chosen)
    hidden = span.hidden(chosen, first, last)
    expected = by_rule(span, positions, first, last)
    assert np.array_equal(np.zeros_like(expected) if hidden is None else hidden, expected)
    assert not expected.all(axis=1).any()
    assert span.seen(chosen).tolist() == (~expected).sum(axis=1).tolist()


def test_keys_cover_what_is_seen():
    """The range of keys may not cut off what an early query of the tile sees."""
    span = Span(0, 10, 3)
    assert span.keys(np.array([4, 6])) == (2, 7)
    assert Span(0, 10).keys(np.array([4, 6])) == (0, 7)


def test_spans_follow_each_other():
    """Prompts of unequal length lie behind each other on one token axis."""
    assert [(s.start, s.stop, s.window) for s in spans([3, 1], 5)] == [(0, 3, 5), (3, 4, 5)]


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("limit", [1, 50, 10**9])
def test_tiles_cover_every_position_once(window, limit):
    """A position that no tile holds would drop out of the mean without a word."""
    positions = np.array([0, 1, 4, 5, 6, 20, 21, 63])
    cut = list(tiles(Span(0, 64, window), positions, 2, limit))
    assert np.concatenate([positions[one] for one in cut]).tolist() == positions.tolist()


def test_sample_is_a_sample():
    """Positions are drawn without repetition, the same ones every time."""
    chosen = sample_positions(1000, 100, 5)
    assert len(set(chosen.tolist())) == 100
    assert (np.diff(chosen) > 0).all()
    assert np.array_equal(chosen, sample_positions(1000, 100, 5))
    assert not np.array_equal(chosen, sample_positions(1000, 100, 6))
    assert sample_positions(7, 100, 5).tolist() == sample_positions(7, None, 5).tolist()
    assert sample_positions(7, None, 5).tolist() == list(range(7))
