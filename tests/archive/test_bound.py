"""The promise of the construction: poor side data costs bytes, never quality.

Whatever bases, predictors and tables say, no coordinate of what is lost is beyond half a step, in
the basis as it is stored. Float32 arithmetic of the encoder adds a millionth of the vectors' size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqcli.archive import transform
from tqcli.archive.cache import Encoder
from tqcli.archive.code import FRACTION, Code, Group
from tqcli.archive.derive import derive
from tqcli.archive.steps import LayerSteps
from tqcli.errors import InputError

ROUNDING = 2e-3  # of a step: float32 on vectors of up to some thousand steps


def worst(code: Code, cache: Any, found: list[Any]) -> float:
    """The largest coordinate of the error, in steps and in the stored bases."""
    largest = 0.0
    for number, group in enumerate(code.groups):
        parts = []
        for i in code.layers_of(number):
            k, v = cache.read(i, 0, cache.tokens)
            heads = len(k)
            decoded = found[i]
            of_k = code.layers[i].k_mean.size
            shape = (cache.tokens, heads, -1)
            k_hat, v_hat = (
                x.reshape(shape).transpose(1, 0, 2) for x in (decoded[:, :of_k], decoded[:, of_k:])
            )
            to_steps = LayerSteps(code.layers[i])
            parts.append(to_steps(k, v).astype(np.float64) - to_steps(k_hat, v_hat))
        error = np.concatenate(parts)
        if group.basis is not None:
            error = np.linalg.solve(group.basis * 2.0**-FRACTION, error)
        largest = max(largest, float(np.abs(error).max()))
    return largest


def turned(code: Code, rng: np.random.Generator, how: str) -> Code:
    """The same code with bases, predictors and tables of no use at all."""
    groups = []
    for group in code.groups:
        basis, predictor = group.basis, group.predictor
        if how == "identity":
            basis, predictor = None, None
        else:
            q, _ = np.linalg.qr(rng.standard_normal((group.width, group.width)))
            basis = np.rint(q * 2**FRACTION).astype(np.int16)
            if predictor is not None:
                predictor = rng.integers(-500, 500, predictor.shape).astype(np.int16)
        expected = rng.integers(0, 64, group.width).astype(np.uint8)
        shifts = None if predictor is None else group.shifts
        groups.append(Group(group.width, basis, predictor, shifts, expected))
    back = 0 if how == "identity" else code.back
    return replace(code, groups=groups, back=back)


@pytest.mark.parametrize("how", ["derived", "random", "identity"])
@pytest.mark.parametrize(("group", "back"), [(1, 0), (1, 2), (2, 1), (3, 1)])
def test_half_a_step(helpers: Any, how: str, group: int, back: int) -> None:
    """Derived, random and no bases, at fine steps and coarse ones, on two domains."""
    sizes = {}
    for step in (0.02, 0.5):
        derived = helpers.code(step, group, back)
        code = derived if how == "derived" else turned(derived, np.random.default_rng(3), how)
        for domain in (0, 1):
            cache = helpers.Cache(300, seed=5, domain=domain)
            found, sizes[step, domain] = helpers.round_trip(code, cache)
            assert worst(code, cache, found) <= 0.5 + ROUNDING
    assert sizes[0.5, 0] < sizes[0.02, 0]


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 12))
def test_half_a_step_on_anything(code: Code, helpers: Any, seed: int, scale: float) -> None:
    """Caches of any size and any domain, under side data that was made for another."""
    cache = helpers.Cache(40, seed=seed, domain=seed % 5, scale=scale)
    found, _ = helpers.round_trip(code, cache)
    assert worst(code, cache, found) <= 0.5 + ROUNDING * max(scale, 1)


def test_large_tokens_are_not_predicted(code: Code) -> None:
    """Where a prediction's sums might wrap there is none, in every token by itself."""
    group = code.groups[1]
    assert group.predictor is not None
    rng = np.random.default_rng(2)
    before = rng.integers(-20, 20, (group.predictor.shape[1], 4)).astype(np.int16)
    room = group.limit - np.abs(before[1:].astype(np.int64)).sum(axis=0)
    assert 0 < room.min() <= room.max() < 32767 * len(before)
    before = np.repeat(before, 2, axis=1)
    at = rng.permutation(len(before))
    for token, rest in enumerate(np.repeat(room, 2) + np.arange(8) % 2):  # the limit, one more
        for row in at:
            if (take := min(rest, 32767 - abs(int(before[row, token])))) > 0 and row:
                before[row, token] += take if before[row, token] >= 0 else -take
                rest -= take
        before[0, token] = 0
        assert rest == 0
    found = transform.predict(group, [before])
    sums = np.abs(before.astype(np.int64)).sum(axis=0)
    assert set(sums - group.limit) == {0, 1}
    assert not found[:, sums > group.limit].any()
    exact = group.predictor.astype(object) @ before.astype(object)
    for row, shift in zip(exact, group.shifts.tolist(), strict=True):  # type: ignore[union-attr]
        row[:] = [(x << -shift) if shift <= 0 else (x + (1 << shift >> 1)) >> shift for x in row]
    kept = sums == group.limit
    assert np.array_equal(found[:, kept], exact[:, kept])
    assert np.abs(found).max() < 1 << 30


def test_good_side_data_is_shorter(helpers: Any) -> None:
    """Bytes: derived for the domain < for another domain < random; prediction and groups help."""
    cache = helpers.Cache(600, seed=6)
    derived = helpers.code(0.1, 2, 1)
    other = helpers.Cache(3000, seed=101, domain=3).moments(3)
    foreign = derive(other, helpers.weights(1), 0.1, group=2, back=1)
    random = turned(derived, np.random.default_rng(4), "random")
    own, far, none = (helpers.round_trip(c, cache)[1] for c in (derived, foreign, random))
    assert own < far < none
    assert own < helpers.round_trip(helpers.code(0.1, 1, 0), cache)[1]


def test_a_basis_that_is_none_is_refused(code: Code) -> None:
    """An encoder that trusted it would promise what it cannot hold."""
    first = code.groups[0]
    assert first.basis is not None
    for bad in (first.basis * 0, first.basis[:, ::-1] // 2, np.abs(first.basis)):
        with pytest.raises(InputError, match="not orthonormal"):
            Encoder(replace(code, groups=[replace(first, basis=bad), *code.groups[1:]]))


def test_too_many_steps_are_refused(code: Code, helpers: Any) -> None:
    """Values that would not fit 16 bits say so, and where; NaN as well."""
    for scale in (1e5, 1e12, np.nan):
        cache = helpers.Cache(20, seed=7, scale=scale)
        with pytest.raises(InputError, match=r"tokens 0 to 20, group 0: .*larger step"):
            list(Encoder(code).stretches(cache.read, 0, 20))
