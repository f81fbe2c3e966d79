"""K as softmax sees it: what is common to all keys of a head counts for nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tqcli.metrics import OFFSET_MEASURES, Stats

Make = Callable[..., np.ndarray]


def of(k: np.ndarray, decoded: np.ndarray, row: str = "0") -> Stats:
    """Statistics of one head."""
    stats = Stats(offset=True)
    stats.add(k, decoded, row=row)
    return stats


def test_a_constant_is_no_error(gaussian: Make) -> None:
    """Adding the same vector to every decoded key changes no softmax, and no figure."""
    k = gaussian(300, 64)
    shifted = k + 5 * gaussian(64, seed=8)
    assert of(k, shifted).offset_measures()["centred_nmse"] == pytest.approx(0, abs=1e-12)
    noisy = k + np.float32(0.1) * gaussian(300, 64, seed=9)
    plain = of(k, noisy).offset_measures()["centred_nmse"]
    moved = of(k, noisy + 5 * gaussian(64, seed=8)).offset_measures()["centred_nmse"]
    assert moved == pytest.approx(plain, rel=1e-4)


def test_softmax_agrees(gaussian: Make) -> None:
    """The claim behind it: with a constant added to all keys, attention is what it was."""
    k, q, constant = gaussian(50, 64), gaussian(64, seed=8), gaussian(64, seed=9)

    def attention(keys: np.ndarray) -> np.ndarray:
        score = keys.astype(np.float64) @ q / 8
        weight = np.exp(score - score.max())
        return np.asarray(weight / weight.sum())

    assert np.allclose(attention(k), attention(k + 7 * constant), atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1.0, 30.0])
def test_offset_ratio(size: float, gaussian: Make) -> None:
    """Length of the mean over the RMS length of the rest."""
    k = gaussian(4000, 64).astype(np.float64)
    k -= k.mean(axis=0)
    offset = np.full(64, size)
    got = of(k + offset, k + offset).offset_measures()["offset_ratio"]
    expected = np.linalg.norm(offset) / np.sqrt((k**2).sum(axis=1).mean())
    assert got == pytest.approx(expected, abs=1e-6)


def test_each_head_has_its_own_mean(gaussian: Make) -> None:
    """Two heads with opposite offsets: pooled figures centre each by itself."""
    a = gaussian(100, 64)
    stats = of(a + 50, a + 50, "first").merge(of(a - 50, a - 50, "second"))
    assert stats.offset_measures()["offset_ratio"] == pytest.approx(
        of(a + 50, a + 50).offset_measures()["offset_ratio"], rel=0.05
    )
    mixed = of(np.concatenate([a + 50, a - 50]), np.concatenate([a + 50, a - 50]))
    assert mixed.offset_measures()["offset_ratio"] < 0.1


def test_kurtosis(gaussian: Make) -> None:
    """0 for Gaussian directions, -2 for spikes (rotated: all alike), above 0 for a heavy tail."""
    plain = of(gaussian(3000, 128), gaussian(3000, 128)).offset_measures()["kurtosis"]
    assert plain == pytest.approx(-6 / 130, abs=0.02)
    spikes = np.eye(128, dtype=np.float32)
    assert of(spikes, spikes).offset_measures()["kurtosis"] == pytest.approx(-2, abs=1e-5)
    from tqcli import rotation

    tail = rotation.unrotate(np.eye(128, dtype=np.float32))
    assert of(tail, tail).offset_measures()["kurtosis"] > 50


@pytest.mark.parametrize("dim", [64, 80, 128, 192, 576])
def test_any_head_size(dim: int, gaussian: Make) -> None:
    """Kurtosis is taken in the rotation of the format; other sizes are padded."""
    measures = of(gaussian(500, dim), gaussian(500, dim)).offset_measures()
    assert abs(measures["kurtosis"]) < 2
    assert measures["centred_nmse"] == 0


def test_nothing_left_after_centring() -> None:
    """One token, or equal keys: softmax sees nothing, and nothing is said about it."""
    one = np.ones((1, 64), np.float32)
    for k in (one, np.repeat(one, 9, axis=0), np.zeros((4, 64), np.float32)):
        measures = of(k, k).offset_measures()
        assert measures["centred_nmse"] is None
        assert measures["offset_ratio"] is None
    assert Stats(offset=True).offset_measures() == dict.fromkeys(OFFSET_MEASURES)
    empty = np.zeros((0, 64))
    assert of(empty, empty).offset_measures() == dict.fromkeys(OFFSET_MEASURES)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=3), st.integers(0, 2**31))
def test_pieces_and_order_do_not_matter(cuts: list[int], seed: int) -> None:
    """A head read in pieces, or in shards merged in any order, has one mean."""
    random = np.random.default_rng([seed, 2])
    k = random.integers(-20, 20, (40, 64)).astype(np.float64) + 7
    decoded = k + random.integers(-2, 3, k.shape)
    edges = [0, *sorted(cuts), 40]
    parts = [of(k[low:high], decoded[low:high]) for low, high in pairwise(edges)]
    forward, backward = Stats(offset=True), Stats(offset=True)
    for part in parts:
        forward = forward.merge(part)
    for part in reversed(parts):
        backward = backward.merge(part)
    expected = of(k, decoded).offset_measures()
    for merged in (forward, backward):
        for name, value in merged.offset_measures().items():
            assert value == pytest.approx(expected[name], rel=1e-9)


def test_merge_leaves_its_parts_alone(gaussian: Make) -> None:
    """Rows of heads are read after they were pooled."""
    a, b = (of(gaussian(9, 64, seed=s), gaussian(9, 64, seed=s + 1)) for s in (1, 3))
    before = a.offset_measures()
    total = a.merge(b)
    total.add(gaussian(3, 64), gaussian(3, 64), row="0")
    assert a.offset_measures() == before
