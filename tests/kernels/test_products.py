"""Integer products: exact modulo 2^32 in every kernel, at every shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tqcli.errors import InputError, UsageError
from tqcli.kernels import choose, products

SHAPES = ((1, 1, 1), (6, 2, 64), (5, 3, 7), (7, 64, 65), (13, 101, 130), (0, 3, 2), (3, 0, 2))


def make(seed: int, *shape: int, dtype: Any = np.int16) -> Any:
    """Integers over the whole range of their type, the least and the largest among them."""
    limits = np.iinfo(dtype)
    out = np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape)
    out[np.random.default_rng(seed + 1).random(shape) < 0.1] = limits.min
    return out.astype(dtype)


def wrapped(values: Any) -> Any:
    """Python integers modulo 2^32, as int32."""
    return ((values + 2**31) % 2**32 - 2**31).astype(np.int32)


@pytest.mark.parametrize("shape", SHAPES)
def test_products(kernel: str, shape: tuple[int, int, int], wall: Callable[[Any], Any]) -> None:
    """What Python's integers give, sums that wrap included, and nothing read behind a matrix."""
    rows, depth, columns = shape
    a, x = make(1, rows, depth), make(3, depth, columns)
    expected = wrapped(a.astype(object) @ x.astype(object)) if depth else 0
    found = products.multiply(wall(a), wall(x)) if a.size and x.size else products.multiply(a, x)
    assert found.shape == (rows, columns)
    assert np.array_equal(found, np.broadcast_to(expected, found.shape))


@pytest.mark.parametrize("shape", SHAPES[:5])
def test_shifts_and_sums(kernel: str, shape: tuple[int, int, int]) -> None:
    """Shifts round halves up without overflow; what was there is added, also modulo 2^32."""
    rows, depth, columns = shape
    a, x = make(5, rows, depth), make(7, depth, columns)
    sums = wrapped(a.astype(object) @ x.astype(object)).astype(object)
    before = make(9, rows, columns, dtype=np.int32)
    for first in range(-16, 32, 3):
        shifts = (first + np.arange(rows) % 3).astype(np.int8)
        scaled = [
            [(s << -n) if n <= 0 else (s + (1 << n >> 1)) >> n for s in row]
            for row, n in zip(sums, shifts.tolist(), strict=True)
        ]
        found = before.copy()
        assert products.multiply(a, x, shifts=shifts, add_to=found) is found
        assert np.array_equal(found, wrapped(before.astype(object) + np.array(scaled, object)))
        alone = products.multiply(a, x, shifts=shifts)
        assert np.array_equal(alone, wrapped(np.array(scaled, object)))


def test_threads_do_not_matter(kernel: str) -> None:
    """Rows are dealt to threads."""
    a, x = make(11, 300, 999), make(13, 999, 70)
    shifts = np.arange(300).astype(np.int8) % np.int8(20)
    one = products.multiply(a, x, shifts=shifts, threads=1)
    for threads in (2, 3, 7):
        assert np.array_equal(products.multiply(a, x, shifts=shifts, threads=threads), one)


def test_bad_arguments(kernel: str) -> None:
    """Each is one line that says what came and what is allowed."""
    a, x = make(15, 4, 6), make(17, 6, 5)
    shifts = np.zeros(4, np.int8)
    for arguments, says in (
        ({"a": a.astype(np.int32)}, "a: int32"),
        ({"a": a[0]}, r"a: int16 \(6,\)"),
        ({"x": x[:5]}, r"x: shape \(5, 5\); \(6, columns\)"),
        ({"shifts": shifts[:3]}, r"shifts: int8 \(3,\)"),
        ({"shifts": shifts + np.int8(32)}, "shifts: 32 to 32; -16 to 31"),
        ({"shifts": shifts - np.int8(17)}, "shifts: -17"),
        ({"add_to": np.zeros((4, 5), np.int64)}, "int64"),
        ({"add_to": np.zeros((5, 4), np.int32).T}, "strides"),
    ):
        given: Any = {"a": a, "x": x, **arguments}
        with pytest.raises(InputError, match=says):
            products.multiply(given.pop("a"), given.pop("x"), **given)
    if kernel != "numpy":
        with pytest.raises(UsageError, match="threads"):
            products.multiply(a, x, threads=0)


def test_the_extension_checks_lengths_again(native: str) -> None:
    """Lengths that do not agree are refused below Python as well, before anything is read."""
    a, x, out = make(19, 4, 6), make(21, 6, 5), np.zeros((4, 5), np.int32)
    shifts = np.zeros(4, np.int8)
    extension, index = choose.native, choose.index()
    assert extension is not None
    for arguments in (
        (99, 4, 6, 5, a, x, out, None, False),
        (index, 5, 6, 5, a, x, out, None, False),
        (index, 4, 7, 5, a, x, out, None, False),
        (index, 4, 6, 4, a, x, out, None, False),
        (index, -4, 6, -5, a, x, out, None, False),
        (index, 0, 6, 5, a, x, out, None, False),
        (index, 1 << 40, 1 << 40, 1 << 40, a, x, out, None, False),
        (index, 4, 6, 5, a, x, out, shifts[:3], False),
        (index, 4, 6, 5, a, x, out, shifts + np.int8(40), False),
        (index, 4, 6, 5, a, out.view(np.int16)[:3].reshape(6, 5), out, None, False),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            extension.multiply(*arguments)
