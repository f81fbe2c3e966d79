"""Moments: what they are, and that merging them is exact."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from tqcli.archive.moments import QUANTUM, Moments
from tqcli.errors import InputError


def test_covariances(helpers: Any) -> None:
    """Those of the vectors, within the layer and with the layers before, in either order."""
    cache = helpers.Cache(1500, seed=1)
    moments = cache.moments(reach=2)
    assert moments.tokens == 1500
    stacked = np.concatenate(cache.vectors, axis=1)
    width = helpers.width
    expected = np.cov(stacked.T, bias=True)
    # each of the two pieces of 1,024 tokens was rounded to 2^-16, and means go in squared
    room = 4 * QUANTUM / 1500 * np.abs(stacked).mean(axis=0).max() + 1e-9 * np.abs(expected).max()
    for layer in range(helpers.layers):
        own = slice(layer * width, (layer + 1) * width)
        np.testing.assert_allclose(moments.mean(layer), stacked[:, own].mean(axis=0), atol=1e-7)
        for before in range(max(layer - 2, 0), layer + 1):
            other = slice(before * width, (before + 1) * width)
            found = moments.covariance(before, layer)
            np.testing.assert_allclose(found, expected[other, own], atol=room)
            assert np.array_equal(moments.covariance(layer, before), found.T)


def test_merging_is_exact(helpers: Any) -> None:
    """In any order and any grouping: the very same numbers."""
    parts = [helpers.Cache(n, seed=n, scale=s).moments(1) for n, s in ((300, 1), (77, 50), (5, 3))]

    def merged(order: Any, moments: Any = parts) -> bytes:
        total = Moments([helpers.width] * helpers.layers, 1)
        for i in order:
            total.merge(moments[i])
        assert total.tokens == 382
        return b"".join(x.tobytes() for x in total.tensors().values())

    assert len({merged(order) for order in permutations(range(3))}) == 1
    pair = Moments([helpers.width] * helpers.layers, 1)
    pair.merge(parts[2])
    pair.merge(parts[1])
    assert merged((0, 1), [parts[0], pair]) == merged((0, 1, 2))


def test_tensors_round_trip(helpers: Any) -> None:
    """What a calibration file holds is all there is."""
    moments = helpers.Cache(50, seed=3).moments(2)
    tensors = moments.tensors()
    assert len(tensors) == 4 + 4 + 3 + 2
    back = Moments.from_tensors(moments.tokens, 2, tensors)
    assert back.tokens == moments.tokens
    for name, array in back.tensors().items():
        assert np.array_equal(array, tensors[name])
    for name in tensors:
        if "products" in name:
            bad = {**tensors, name: tensors[name][1:]}
            with pytest.raises(InputError, match=f"{name}: float64"):
                Moments.from_tensors(50, 2, bad)
            bad = {**tensors, name: tensors[name].astype(np.float32)}
            with pytest.raises(InputError, match=f"{name}: float32"):
                Moments.from_tensors(50, 2, bad)
            del bad[name]
            with pytest.raises(InputError, match=f"{name}: missing"):
                Moments.from_tensors(50, 2, bad)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e7])
def test_sums_that_cannot_be_exact_are_refused(helpers: Any, value: float) -> None:
    """Beyond 2^37, or not finite: one line instead of a silent rounding."""
    moments = Moments([3, 3], 1)
    with pytest.raises(InputError, match=r"beyond 2\^37"), np.errstate(invalid="ignore"):
        moments.add([np.full((2, 3), value), np.zeros((2, 3))])


def test_other_layers_do_not_merge() -> None:
    """Of another model, or with another reach."""
    with pytest.raises(InputError, match="a reach of 1"):
        Moments([3, 3], 2).merge(Moments([3, 3], 1))
    with pytest.raises(InputError, match="layers of"):
        Moments([3, 3], 1).merge(Moments([3, 4], 1))
    with pytest.raises(InputError, match="vectors"):
        Moments([3, 3], 1).add([np.zeros((2, 3)), np.zeros((1, 3))])
