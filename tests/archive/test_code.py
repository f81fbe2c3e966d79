"""Side data: what is derived, what is stored, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tqcli.archive.code import FRACTION, Code
from tqcli.archive.derive import derive
from tqcli.archive.plain import Spread, plain_code
from tqcli.archive.weights import weights
from tqcli.errors import InputError


@pytest.mark.parametrize(("group", "back"), [(1, 0), (1, 1), (1, 2), (2, 1), (3, 1), (4, 0)])
def test_derived(helpers: Any, group: int, back: int) -> None:
    """Bases are orthonormal to their rounding, predictors fit what is carried."""
    code = helpers.code(0.1, group, back)
    assert code.components == helpers.layers * helpers.width
    for number, own in enumerate(code.groups):
        layers = code.layers_of(number)
        assert own.width == len(layers) * helpers.width
        basis = own.basis.astype(np.float64) * 2.0**-FRACTION
        np.testing.assert_allclose(basis.T @ basis, np.eye(own.width), atol=own.width * 2.0**-14)
        before = min(number, back)
        assert (own.predictor is None) == (before == 0)
        if own.predictor is not None:
            assert own.predictor.shape == (own.width, before * group * helpers.width)


def test_expected_tables_are_near(code: Code, helpers: Any) -> None:
    """On the domain of the calibration a table is rarely more than two away."""
    from tqcli.archive.cache import Encoder, unpack_choice

    cache = helpers.Cache(2000, seed=14)
    (stretch,) = Encoder(code).stretches(cache.read, 0, 2000)
    choice = unpack_choice(stretch.tables, code.expected)
    wide = code.expected > 18  # below half a step most components are silent or nearly so
    far = np.abs(choice.astype(int) - code.expected)[wide]
    assert wide.sum() > 20
    assert np.mean(far > 2) < 0.1


def test_too_little_was_seen(helpers: Any) -> None:
    """Moments that do not reach, or of no tokens; layers that no query looked at."""
    moments = helpers.Cache(100, seed=15).moments(1)
    with pytest.raises(InputError, match="need 3"):
        derive(moments, helpers.weights(1), 0.1, group=2, back=1)
    moments.tokens = 1
    with pytest.raises(InputError, match="1 tokens"):
        derive(moments, helpers.weights(1), 0.1, group=1, back=1)
    one, gram = np.ones(2), np.ones((2, 4, 4))
    for bad in (
        (np.zeros((2, 4)), one, one, gram),
        (np.ones((2, 4)), 0 * one, one, gram),
        (np.ones((2, 4)), one, np.nan * one, gram),
        (np.ones((2, 4)), one, one, 0 * gram),
    ):
        with pytest.raises(InputError, match="all zero"):
            weights(*bad)


def test_tensors_round_trip(code: Code) -> None:
    """A file holds all there is; the size is that of the arrays."""
    tensors = code.tensors()
    back = Code.from_tensors(code.record(), tensors)
    assert back.record() == code.record()
    assert back.nbytes == code.nbytes == sum(x.nbytes for x in tensors.values())
    for name, array in back.tensors().items():
        assert np.array_equal(array, tensors[name])


def test_bad_tensors(code: Code) -> None:
    """Each array missing, of another type, shape or with values that cannot be."""
    record, tensors = code.record(), code.tensors()
    for name, array in tensors.items():
        for bad in (None, array.astype(np.float64), array[..., None], array[:0]):
            given = {k: v for k, v in tensors.items() if k != name}
            if bad is not None:
                given[name] = bad
            elif name.endswith(("basis", "predictor")):
                continue  # without it: the identity, or no prediction
            with pytest.raises(InputError, match="archive code: "):
                Code.from_tensors(record, given)
    for name, value in (
        ("layers.0.k.step", 0.0),
        ("layers.0.k.mean", np.nan),
        ("layers.1.v.step", (1 << 17) + 1),
        ("groups.1.shifts", -15),
    ):
        bad = tensors[name].copy()
        bad.flat[0] = value
        with pytest.raises(InputError, match="archive code: "):
            Code.from_tensors(record, {**tensors, name: bad})
    with pytest.raises(InputError, match="unknown tensor"):
        Code.from_tensors(record, {**tensors, "groups.9.basis": tensors["groups.0.basis"]})


@pytest.mark.parametrize(
    "change",
    [
        {"step": 0.0},
        {"step": float("nan")},
        {"step": "0.1"},
        {"group": 0},
        {"group": 4},
        {"group": True},
        {"back": 3},
        {"layers": 0},
        {"layers": 5},
        {"layers": 10**9},
        {"layers": None},
    ],
)
def test_bad_records(code: Code, change: dict[str, Any]) -> None:
    """The numbers of the metadata are checked before they are used."""
    with pytest.raises(InputError, match="archive code: "):
        Code.from_tensors({**code.record(), **change}, code.tensors())


def test_without_a_calibration(helpers: Any) -> None:
    """Own means and scales: an error of a share of each head's scale, and files of a few KB."""
    cache = helpers.Cache(500, seed=16)
    spreads = []
    for layer in range(helpers.layers):
        of_k, of_v = Spread(), Spread()
        for start in range(0, 500, 200):
            k, v = cache.read(layer, start, min(start + 200, 500))
            of_k.add(k)
            of_v.add(v)
        spreads.append((of_k, of_v))
    code = plain_code(spreads, 0.25)
    assert code.nbytes < 5000
    found, nbytes = helpers.round_trip(code, cache)
    assert nbytes < 500 * helpers.layers * helpers.width * 4 / 8
    for layer, decoded in enumerate(found):
        k, v = cache.read(layer, 0, 500)
        error = np.abs(decoded - helpers.join(k, v))
        scales = [np.repeat(s.scale(), d) for s, d in zip(spreads[layer], (8, 6), strict=True)]
        assert (error <= 0.126 * np.concatenate(scales) + 1e-5).all()


def test_a_head_that_never_changes() -> None:
    """Its scale is 1, so that nothing is divided by zero."""
    spread = Spread()
    spread.add(np.ones((2, 5, 3)))
    assert np.array_equal(spread.scale(), [1, 1])
    assert np.array_equal(spread.mean(), np.ones((2, 3)))
