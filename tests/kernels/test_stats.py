"""The statistics: their order of sums written out, and every kernel against it, bit for bit."""

from __future__ import annotations

from itertools import product
from math import sqrt
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tqcli import kernels, rotation
from tqcli.errors import InputError
from tqcli.kernels import stats, stats_reference
from tqcli.kernels.stats_reference import DECODED, DOT, ERROR, LARGEST, SIGNAL

# Multiples of a register, of half of one, of nothing.
DIMS = (1, 4, 7, 8, 9, 31, 64, 77, 80, 96, 112, 128, 192, 256, 576)


def bits(array: Any) -> Any:
    """What two results must agree in; a NaN equals any NaN."""
    return np.where(np.isnan(array), np.nan, array).view(np.uint64)


def pair(rng: np.random.Generator, n: int, dim: int, dtype: Any) -> tuple[Any, Any]:
    """Vectors of many sizes, some of them zero or equal, and others near them."""
    with np.errstate(all="ignore"):
        sizes = np.exp(rng.uniform(-8, 8, (n, 1)))
        x = (rng.standard_normal((n, dim)) * sizes).astype(dtype)
        decoded = (x.astype(np.float64) + rng.standard_normal((n, dim)) * sizes / 9).astype(
            np.float32
        )
    x[n // 3] = 0
    decoded[n // 2] = 0
    decoded[n // 4] = x[n // 4].astype(np.float32)
    return x, decoded


def everything(x: Any, decoded: Any) -> list[Any]:
    """All results of the active kernel."""
    channels, moments, totals = np.ones((2, x.shape[1])), np.full(2, 0.5), np.ones(7)
    rows = stats.errors(x, decoded, channels)
    padded = stats.moments(x, moments)
    keys = stats.summarize(rows, totals)
    return [rows, channels, moments, np.array([padded]), keys, totals]


def equal(left: list[Any], right: list[Any]) -> bool:
    """Whether all results agree, bit for bit."""
    return all(
        np.array_equal(bits(a) if a.dtype == np.float64 else a, bits(b) if b.dtype == float else b)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("dim", DIMS)
def test_every_head_size(native: str, helpers: Any, dim: int) -> None:
    """Any number of values, in each float type, gives the bits of the specification."""
    rng = np.random.default_rng(501 + dim)
    for dtype, n in product(helpers.dtypes, (1, 2, 33)):
        x, decoded = pair(rng, n, dim, dtype)
        found = everything(x, decoded)
        with kernels.use("numpy"):
            assert equal(found, everything(x, decoded))


@pytest.mark.parametrize("dim", [64, 77, 128])
def test_hostile_values(native: str, helpers: Any, dim: int) -> None:
    """Huge, denormal, infinite, NaN: nothing that a file can hold makes kernels differ."""
    rng = np.random.default_rng(733)
    for dtype in helpers.dtypes:
        x = helpers.cast(helpers.hostile(rng, 200, dim), dtype)
        decoded = helpers.hostile(rng, 200, dim)
        found = everything(x, decoded)
        with kernels.use("numpy"):
            assert equal(found, everything(x, decoded))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_half(native: str, dtype: Any) -> None:
    """All 65,536 values of a 16-bit type, beside all of them in another order."""
    x = np.arange(1 << 16, dtype=np.uint16).view(dtype).reshape(512, 128)
    with np.errstate(all="ignore"):
        decoded = x[::-1].astype(np.float32)
    found = everything(x, decoded)
    with kernels.use("numpy"):
        assert equal(found, everything(x, decoded))


def test_the_order_written_out(kernel: str) -> None:
    """One number after the other, as the specification says it in words."""
    x, decoded = pair(np.random.default_rng(3), 5, 21, np.float32)

    def total(values: list[float]) -> float:
        parts = [0.0] * 8
        for e, value in enumerate(values):
            parts[e % 8] += value
        for half in (4, 2, 1):
            parts = [parts[i] + parts[i + half] for i in range(half)]
        return parts[0]

    channels = np.zeros((2, 21))
    rows = stats.errors(x, decoded, channels)
    key, error = [0.0] * 21, [0.0] * 21
    for row, a, b in zip(
        rows, x.astype(float).tolist(), decoded.astype(float).tolist(), strict=True
    ):
        both = list(zip(a, b, strict=True))
        assert row[ERROR] == total([(q - p) * (q - p) for p, q in both])
        assert row[SIGNAL] == total([p * p for p, _ in both])
        assert row[DOT] == total([p * q for p, q in both])
        assert row[DECODED] == total([q * q for _, q in both])
        assert row[LARGEST] == max(abs(q - p) for p, q in both)
        key = [s + p for s, p in zip(key, a, strict=True)]
        error = [s + (q - p) for s, (p, q) in zip(error, both, strict=True)]
    assert channels.tolist() == [key, error]


@pytest.mark.parametrize("dim", [64, 80, 128, 192])
def test_moments_are_those_of_the_rotation(kernel: str, gaussian: Any, dim: int) -> None:
    """Squares and fourth powers of the rotated unit vectors; a zero vector adds nothing."""
    x = gaussian(40, dim)
    x[7] = 0
    totals = np.zeros(2)
    padded = stats.moments(x, totals)
    group = 64 if dim in (64, 192) else 128
    assert padded == -(-dim // group) * group
    length = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    unit = np.pad(x / np.where(length > 0, length, 1), ((0, 0), (0, padded - dim)))
    y = rotation.rotate(unit.astype(np.float32), group).astype(np.float64) * sqrt(group)
    # float32 rounds seven times: 2^-24 each, twice for a square, four times for a fourth power.
    assert totals[0] == pytest.approx((y**2).sum(), rel=1e-6)
    assert totals[1] == pytest.approx((y**4).sum(), rel=2e-6)


def test_calls_go_on_where_others_ended(kernel: str) -> None:
    """Wherever the vectors are cut, sums over them are the same bits."""
    x, decoded = pair(np.random.default_rng(8), 300, 96, np.float16)
    whole = everything(x, decoded)
    for cuts in ([1, 2, 150], [299], [64, 128, 192, 256]):
        channels, moments, totals = np.ones((2, 96)), np.full(2, 0.5), np.ones(7)
        rows, keys = [], []
        for a, b in zip(np.split(x, cuts), np.split(decoded, cuts), strict=True):
            rows.append(stats.errors(a, b, channels))
            padded = stats.moments(a, moments)
            keys.append(stats.summarize(rows[-1], totals))
        parts = [np.concatenate(rows), channels, moments, np.array([padded])]
        assert equal([*parts, np.concatenate(keys), totals], whole)


@pytest.mark.parametrize("shift", [0, 1, 2, 3, 5, 31])
def test_any_address(native: str, helpers: Any, shift: int) -> None:
    """Inputs may begin anywhere, and nothing in front of the outputs or behind is written."""
    for dtype, dim in product(helpers.dtypes, (64, 77)):
        x, decoded = pair(np.random.default_rng(shift), 9, dim, dtype)
        room = np.zeros(x.nbytes + decoded.nbytes + 64, np.uint8)
        a = room[shift : shift + x.nbytes].view(dtype).reshape(x.shape)
        start = shift + x.nbytes
        b = room[start : start + decoded.nbytes].view(np.float32).reshape(x.shape)
        a[...], b[...] = x, decoded
        fence = np.full((4, dim), 7.0)
        rows = stats.errors(a, b, fence[1:3])
        assert np.array_equal(rows, stats_reference.errors(x, decoded))
        assert np.all(fence[[0, 3]] == 7)


def test_other_floats_are_measured_too(kernel: str) -> None:
    """float64 arrays run on NumPy; as far as float32 can hold them, they give the same bits."""
    x, decoded = pair(np.random.default_rng(5), 20, 40, np.float32)
    assert equal(
        everything(x.astype(np.float64), decoded.astype(np.float64)), everything(x, decoded)
    )


def test_keys_by_hand(kernel: str) -> None:
    """Steps of 2^-20 from a distance of 2^-8 on, of 2^-12 of the power of two below."""
    cosines = np.array([1, 0.75, 0.75 - 2**-21, 0.75 - 2**-20, 1 - 2**-8, 1 - 2**-9, -1])
    rows = np.zeros((len(cosines), 5))
    rows[:, SIGNAL] = rows[:, DECODED] = 1
    rows[:, DOT] = cosines
    totals = np.array([0, 0, 0, 0, 0, np.inf, 0.0])
    low, high = stats.bounds(stats.summarize(rows, totals))
    assert low.tolist() == [0, 0.25, 0.25, 0.25 + 2**-20, 2**-8, 2**-9, 2]
    assert (high - low)[1:].tolist() == [2**-20] * 4 + [2**-21, 2**-19]
    assert totals.tolist() == [0, 7, *totals[2:4], 0, 0, 2]


def test_keys_enclose_their_distances(kernel: str) -> None:
    """Every distance lies in its step, no step is wider than 2^-20, and keys are in order."""
    rng = np.random.default_rng(12)
    distances = np.sort(np.concatenate([2 * rng.random(2000), np.exp2(-40 * rng.random(2000))]))
    rows = np.ones((len(distances), 5))
    rows[:, DOT] = 1 - distances
    keys = stats.summarize(rows, np.zeros(7))
    low, high = stats.bounds(keys)
    seen = 1 - rows[:, DOT]
    assert np.all((low <= seen) & (seen < high))
    assert np.all(high - low <= 2**-20)
    assert np.all(np.diff(keys.astype(np.int64)) >= 0)


def test_zero_vectors(kernel: str) -> None:
    """Zero that stays zero is at no distance; one side zero points nowhere."""
    rows = np.zeros((3, 5))
    rows[1, SIGNAL] = rows[2, DECODED] = 4
    totals = np.array([0, 0, 0, 0, 0, np.inf, 0.0])
    stats.summarize(rows, totals)
    assert totals.tolist() == [0, 4, 2, 2, 0, 0, 1]


def test_shapes_are_checked(kernel: str) -> None:
    """Arrays that do not belong together end in one line."""
    x = np.zeros((3, 8), np.float32)
    for bad in (lambda: stats.errors(x, x[:2]), lambda: stats.errors(x[0], x[0])):
        with pytest.raises(InputError, match="shape"):
            bad()
    with pytest.raises(InputError, match="channels"):
        stats.errors(x, x, np.zeros((2, 7)))
