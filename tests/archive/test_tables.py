"""The fixed tables: the same integers everywhere, close to their distributions, well chosen."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from tqcli.archive import cache, tables
from tqcli.errors import InputError
from tqcli.kernels import rans

# An archive is read with the tables it was written with: these never change.
SHA256 = "a97fe7331d4e4c2ab164c136d0d29d826ff5ea8c617b3496dcd98694b4d9559d"


def test_the_integers() -> None:
    """What every machine must get."""
    found = tables.family().frequencies
    assert found.shape == (46, 256)
    assert hashlib.sha256(found.astype("<u2").tobytes()).hexdigest() == SHA256


@pytest.mark.parametrize("t", [3, 6, 13, 24, 33, 40, 45])
def test_close_to_the_distribution(t: int) -> None:
    """A Laplace source is coded within 1 % of its entropy (integers, table, escapes together)."""
    scale = 2 ** (t / 6 - 4)
    q = np.arange(1, 2000)
    ratio = np.exp(-1 / scale)
    p = np.concatenate([[1 - ratio**0.5], (1 - ratio) * ratio ** (q - 0.5) / 2])
    entropy = -p[0] * np.log2(p[0]) - 2 * (p[1:] * np.log2(np.maximum(p[1:], 1e-300))).sum()
    slots = tables.family().frequencies[t].astype(float)
    bits = np.full(len(p), 12 - np.log2(slots[0]) + 16)
    own = np.flatnonzero(slots[128:])
    bits[own] = 12 - np.log2(slots[128:][own])
    assert p[0] * bits[0] + 2 * (p[1:] * bits[1:]).sum() <= 1.01 * entropy + 0.001


def test_the_choice_is_the_shortest() -> None:
    """Of all narrow tables, the chosen one codes a row in the fewest bytes."""
    rng = np.random.default_rng(8)
    for scale in (0.05, 0.2, 0.7, 3.0, 9.0):
        row = np.rint(rng.standard_t(3, (1, 4000)) * scale).astype(np.int16)
        counts = tables.Counts(1)
        counts.add(row)
        sizes = [
            len(rans.encode(row, tables.family(), np.array([t], np.uint8)))
            for t in range(tables.SHAPES)
        ]
        chosen = int(counts.choose()[0])
        assert sizes[chosen] <= min(sizes) + 2  # the cost of a symbol is rounded


def test_wide_rows_get_wide_tables() -> None:
    """Up to scales of 90 steps; a row of zeros gets none."""
    rng = np.random.default_rng(9)
    for scale in (14.0, 25.0, 60.0, 90.0):
        counts = tables.Counts(2)
        symbols = np.rint(rng.laplace(size=(2, 4000)) * [[scale], [0]]).astype(np.int16)
        counts.add(symbols)
        chosen, silent = counts.choose()
        assert abs(chosen - (np.log2(scale) + 4) * 6) < 1
        assert silent == rans.SILENT
        shape, shift = tables.shape_of(np.array([chosen, silent], np.uint8))
        assert shape[0] + 6 * shift[0] == chosen
        assert shape[0] < tables.SHAPES
        assert shape[1] == rans.SILENT
        assert shift[1] == 0


def test_counts_add_up() -> None:
    """Symbols counted in parts are those counted at once; beyond the table, as escapes."""
    rng = np.random.default_rng(10)
    symbols = np.rint(rng.laplace(size=(5, 600)) * 60).astype(np.int16)
    symbols[0, :3] = -32767, 32767, 128
    whole, parts = tables.Counts(5), tables.Counts(5)
    whole.add(symbols)
    for at in range(0, 600, 70):
        parts.add(symbols[:, at : at + 70])
    assert np.array_equal(whole.symbols, parts.symbols)
    assert np.array_equal(whole.magnitude, np.abs(symbols.astype(int)).sum(axis=1))
    for row, counted in zip(symbols, whole.symbols, strict=True):
        narrow = row[np.abs(row) < 128]
        assert counted[0] == len(row) - len(narrow)
        assert np.array_equal(counted[1:], np.bincount(narrow + 127, minlength=255))


def test_choice_round_trip(kernel: str) -> None:
    """Tables near the expected ones cost little; any tables come back."""
    rng = np.random.default_rng(11)
    expected = rng.integers(0, 64, 5000).astype(np.uint8)
    near = np.clip(expected + np.rint(rng.laplace(size=5000)), 0, 63).astype(np.uint8)
    far: Any = rng.integers(0, 65, 5000).astype(np.uint8)
    far[far == 64] = rans.SILENT
    for choice in (near, far, expected, far[:0]):
        packed = cache.pack_choice(choice, expected[: len(choice)])
        assert np.array_equal(cache.unpack_choice(packed, expected[: len(choice)]), choice)
    assert len(cache.pack_choice(near, expected)) < 2.7 * 5000 / 8 + 137


def test_damaged_choices_are_refused() -> None:
    """Tables that do not exist are not guessed at."""
    expected = np.full(40, 60, np.uint8)
    good = cache.pack_choice(expected, expected)
    beyond = cache.pack_choice(expected, expected - np.uint8(10))  # differences of 10, to 70
    for bad in (good[:0], good[:-1], np.concatenate([[46], good[1:]]).astype(np.uint8), beyond):
        with pytest.raises(InputError, match="damaged"):
            cache.unpack_choice(bad, expected)
