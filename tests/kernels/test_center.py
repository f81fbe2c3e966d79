"""A mean that RoPE turned: the extension and NumPy give the same bits, whatever comes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tqcli import kernels
from tqcli.errors import InputError
from tqcli.kernels.center import Turn, give_mean, sum_keys, take_mean
from tqcli.rope import Rope, apply_rope, cos_sin, cos_sin_table, remove_rope

# head_dim, pairs: whole heads, partial rotary dimensions, nothing turned, one pair, an odd rest
SIZES = ((128, 64), (64, 32), (80, 40), (96, 16), (64, 0), (2, 1), (7, 2), (1, 0), (576, 32))


def case(dim: int, pairs: int, *, rows: int = 300, interleaved: bool = False) -> Any:
    """Keys, how they are turned, and a mean."""
    rng = np.random.default_rng(dim + pairs)
    angle = rng.uniform(-400, 400, (rows, pairs))
    turn = Turn(np.cos(angle).astype("f4"), np.sin(angle).astype("f4"), interleaved)
    return rng.standard_normal((rows, dim)), turn, rng.standard_normal(dim).astype("f4") * 30


def on_numpy(call: Any, *arguments: Any) -> Any:
    """What the specification gives."""
    with kernels.use("numpy"):
        return call(*arguments)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("dim", "pairs"), SIZES)
def test_kernels_agree(native: str, helpers: Any, dim: int, pairs: int, interleaved: bool) -> None:
    """Equal bits in every float type, both ways and in the sums."""
    values, turn, mean = case(dim, pairs, interleaved=interleaved)
    for dtype in helpers.dtypes:
        x = helpers.cast(values, dtype)
        taken = take_mean(x, turn, mean)
        assert helpers.same(taken, on_numpy(take_mean, x, turn, mean))
        given = give_mean(taken, turn, mean, dtype)
        assert helpers.same(given, on_numpy(give_mean, taken, turn, mean, dtype))
        sums, expected = np.full(dim, 0.125), np.full(dim, 0.125)
        sum_keys(x, turn, sums)
        on_numpy(sum_keys, x, turn, expected)
        np.testing.assert_array_equal(sums, expected)


def test_hostile_values(native: str, helpers: Any) -> None:
    """NaN, infinities, denormals and overflow end alike."""
    x = helpers.hostile(np.random.default_rng(3), 300, 64)
    _, turn, mean = case(64, 32)
    assert helpers.same(take_mean(x, turn, mean), on_numpy(take_mean, x, turn, mean))
    finite = np.where(np.isfinite(x), x, 1)
    for dtype in helpers.dtypes:
        given = give_mean(finite, turn, mean, dtype)
        assert helpers.same(given, on_numpy(give_mean, finite, turn, mean, dtype))


@pytest.mark.parametrize("threads", [1, 3])
def test_sums_do_not_depend_on_cuts_and_threads(kernel: str, threads: int) -> None:
    """Row by row: pieces of any length, on any number of threads, give the same total."""
    values, turn, _ = case(128, 64, rows=9000)
    x, whole, cut = values.astype(np.float16), np.zeros(128), np.zeros(128)
    kernels.set_threads(threads)
    try:
        sum_keys(x, turn, whole)
    finally:
        kernels.set_threads(None)
    for first in range(0, 9000, 1234):
        sum_keys(x[first : first + 1234], turn.part(first, first + 1234), cut)
    np.testing.assert_array_equal(whole, cut)


@pytest.mark.parametrize("pairs", ["half", "interleaved"])
def test_follows_rope(pairs: Any) -> None:
    """What is taken away is the mean as RoPE turns it; what is summed is K before RoPE."""
    rope = Rope("default", tuple((1e4 ** -(np.arange(8) / 8)).tolist()), pairs)
    rng = np.random.default_rng(5)
    mean, k, positions = (
        rng.standard_normal(24).astype("f4"),
        rng.standard_normal((40, 24)),
        np.arange(40),
    )
    x = apply_rope(k, positions, rope)
    turn = Turn(*cos_sin_table(positions, rope), interleaved=pairs == "interleaved")
    turned = apply_rope(np.tile(mean, (40, 1)), positions, rope)
    np.testing.assert_allclose(x - take_mean(x, turn, mean), turned, atol=1e-5)
    sums = np.zeros(24)
    sum_keys(x, turn, sums)
    before = remove_rope(x, positions, rope).astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(sums, before, atol=1e-4)


def test_cosines_are_exact() -> None:
    """Within an ulp of the true value up to angles that no context reaches."""
    rng = np.random.default_rng(9)
    for scale in (1.0, 1e3, 5e8):
        angle = (rng.uniform(-scale, scale, 20_000)).astype(np.float32).astype(np.float64)
        cos, sin = cos_sin(angle)
        assert np.abs(cos - np.cos(angle)).max() < 1e-15
        assert np.abs(sin - np.sin(angle)).max() < 1e-15
    assert [part.tolist() for part in cos_sin(np.zeros(1))] == [[1.0], [0.0]]


def test_arrays_at_odd_addresses(kernel: str) -> None:
    """Keys are copied first; where a result would be written, the caller is told."""
    values, turn, mean = case(64, 32)
    x = values.astype(np.float32)
    odd = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    odd[...] = x
    np.testing.assert_array_equal(take_mean(odd, turn, mean), take_mean(x, turn, mean))
    with pytest.raises(InputError, match="out: an unaligned array"):
        take_mean(x, turn, mean, odd)
    with pytest.raises(InputError, match="aligned"):
        take_mean(x, turn, np.zeros(257, np.uint8)[1:].view(np.float32))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": np.zeros((3, 8), np.float64)}, "float64"),
        ({"x": np.zeros((3, 9), np.float32)}, "shape"),
        ({"mean": np.zeros(8)}, "mean"),
        ({"cos": np.zeros((2, 4), np.float32)}, "table"),
        ({"sin": np.zeros((3, 3), np.float32)}, "table"),
        ({"cos": np.zeros((3, 5), np.float32), "sin": np.zeros((3, 5), np.float32)}, "table"),
        ({"cos": np.zeros((3, 8), np.float32)[:, ::2]}, "strides"),
    ],
)
def test_arguments_that_do_not_fit(changed: dict[str, Any], message: str) -> None:
    """One line, before any kernel sees them."""
    table = np.zeros((3, 4), np.float32)
    given = {"x": np.zeros((3, 8), "f4"), "mean": np.zeros(8, "f4"), "cos": table, "sin": table}
    given |= changed
    with pytest.raises(InputError, match=message):
        take_mean(given["x"], Turn(given["cos"], given["sin"]), given["mean"])
