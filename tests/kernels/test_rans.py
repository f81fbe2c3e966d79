"""rANS streams: every kernel writes the same bytes, reads the same symbols, refuses the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tqcli import kernels
from tqcli.errors import InputError
from tqcli.kernels import choose, rans, rans_reference

WIDTHS = (0, 1, 15, 16, 31, 32, 33, 63, 64, 100, 256)


def make_tables(rng: np.random.Generator, count: int = 7) -> rans.Tables:
    """Tables of every kind: nearly all zeros, flat, skewed, with holes, with a large escape."""
    frequencies = np.zeros((count, rans.SYMBOLS), np.uint16)
    for i, row in enumerate(frequencies):
        weights = rng.random(rans.SYMBOLS) ** (1 + 8 * rng.random())
        if i % 3 == 1:
            weights[rng.random(rans.SYMBOLS) < 0.7] = 0
        shares = np.floor(weights / weights.sum() * (rans.SLOTS - 300)).astype(np.uint16)
        row[:] = shares
        row[0] += 1
        row[rng.integers(256) if i % 2 else 128] += rans.SLOTS - row.sum(dtype=np.int64)
    frequencies[0] = 0
    frequencies[0, [0, 128]] = 1, rans.SLOTS - 1
    return rans.Tables(frequencies)


def make_rows(rng: np.random.Generator, rows: int, width: int, tables: rans.Tables) -> Any:
    """Symbols small and large, every int16 possible, and a table for each row."""
    choice = rng.integers(0, len(tables), rows).astype(np.uint8)
    choice[rng.random(rows) < 0.2] = rans.SILENT
    symbols = np.rint(rng.laplace(size=(rows, width)) * 10 ** rng.uniform(-1, 2, (rows, 1)))
    symbols[rng.random((rows, width)) < 0.01] = rng.choice([-32768, 32767, -128, -127, 127, 128])
    symbols[choice == rans.SILENT] = 0
    return np.clip(symbols, -32768, 32767).astype(np.int16), choice


@pytest.mark.parametrize("width", WIDTHS)
def test_round_trip(kernel: str, width: int) -> None:
    """Rows of any width, any integers of 16 bits, silent rows between them."""
    rng = np.random.default_rng(100 + width)
    tables = make_tables(rng)
    for rows in (0, 1, 20):
        symbols, choice = make_rows(rng, rows, width, tables)
        stream = rans.encode(symbols, tables, choice)
        assert np.array_equal(rans.decode(stream, tables, choice, width), symbols)


@pytest.mark.parametrize("width", WIDTHS)
def test_same_bytes(native: str, width: int) -> None:
    """What the specification writes."""
    rng = np.random.default_rng(200 + width)
    tables = make_tables(rng)
    symbols, choice = make_rows(rng, 20, width, tables)
    expected = rans_reference.encode(symbols, tables.frequencies, choice)
    assert np.array_equal(rans.encode(symbols, tables, choice), expected)


@pytest.mark.parametrize("frequency", [1, 2, 3, 5, 7, 4093, 4094, 4095])
def test_division_is_exact(native: str, frequency: int) -> None:
    """The encoder multiplies by a reciprocal; long runs drive the state to its bounds."""
    frequencies = np.zeros((1, rans.SYMBOLS), np.uint16)
    frequencies[0, [0, 128, 129]] = 1, frequency, 0
    frequencies[0, 129] = rans.SLOTS - frequencies.sum()
    tables, choice = rans.Tables(frequencies), np.zeros(40, np.uint8)
    rng = np.random.default_rng(frequency)
    symbols = (rng.random((40, 256)) < 0.1).astype(np.int16)
    expected = rans_reference.encode(symbols, frequencies, choice)
    assert np.array_equal(rans.encode(symbols, tables, choice), expected)


def test_length_is_the_entropy(kernel: str) -> None:
    """A stream is at most 1 % longer than the entropy of its tables, beside its 136 bytes."""
    rng = np.random.default_rng(3)
    tables = make_tables(rng)
    choice = np.arange(1, 7).astype(np.uint8)
    p = tables.frequencies[choice] / rans.SLOTS
    p[:, 0] = 0  # no escapes
    place = np.array([rng.choice(rans.SYMBOLS, 4096, p=row / row.sum()) for row in p])
    symbols = (place + rans.ESCAPE).astype(np.int16)
    bits = -np.log2(np.take_along_axis(p, place, axis=1)).sum()
    assert len(rans.encode(symbols, tables, choice)) - 136 <= 1.01 * bits / 8


def test_damage_is_seen_alike(native: str, wall: Callable[[Any], Any]) -> None:
    """Cut, flipped and invented streams: the same verdict as the specification's, no byte read
    behind the stream, and where it is accepted (an escape's value was hit) the same symbols.
    """
    rng = np.random.default_rng(4)
    tables = make_tables(rng)
    symbols, choice = make_rows(rng, 12, 70, tables)
    whole = rans.encode(symbols, tables, choice)
    verdicts = set()
    for trial in range(600):
        stream = whole.copy()
        if trial % 4 == 0:
            stream = stream[: rng.integers(len(whole) + 1)]
        elif trial % 4 == 1:
            stream[rng.integers(len(stream))] ^= 1 << rng.integers(8)
        elif trial % 4 == 2:  # an escape too few or too many
            more = int(rng.integers(-1, 2))
            stream = np.append(stream, stream[-2:])[: len(stream) + 2 * more]
            stream[4:8].view(np.int32)[0] += more
        else:
            stream[8:] = rng.integers(0, 256, len(stream) - 8, np.uint8)
        expected, found = (np.empty_like(symbols) for _ in range(2))
        says = rans_reference.decode(stream, tables.lookups, choice, expected)
        extension, index = choose.native, choose.index()
        assert extension is not None
        args = (index, tables.lookups, choice, symbols.shape[1], wall(stream), found)
        assert extension.rans_decode(*args) == says
        if says is None:
            assert np.array_equal(found, expected)
        verdicts.add(says)
    assert len(verdicts) == 7  # every reason was met, and None


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (np.full((1, 256), 16, np.int16), "frequencies: int16"),
        (np.full((1, 255), 16, np.uint16), r"frequencies: uint16 \(1, 255\)"),
        (np.full((256, 256), 16, np.uint16), "256 tables; 1 to 255"),
        (np.full((1, 256), 15, np.uint16), "a row of another sum"),
        (np.full((0, 256), 16, np.uint16), "0 tables"),
        (np.roll([[0, 32] + [16] * 254], 0).astype(np.uint16), "without an escape"),
    ],
)
def test_bad_tables(tables: Any, says: str) -> None:
    """Only tables under which every integer has a place."""
    with pytest.raises(InputError, match=says):
        rans.Tables(tables)


def test_bad_arguments(kernel: str) -> None:
    """Each is one line that says what came and what is allowed."""
    tables = rans.Tables(np.full((2, 256), 16, np.uint16))
    symbols, choice = np.zeros((3, 5), np.int16), np.zeros(3, np.uint8)
    stream = rans.encode(symbols, tables, choice)
    for bad, says in (
        ((symbols.astype(np.int32), tables, choice), "symbols: int32"),
        ((symbols[0], tables, choice), r"symbols: int16 \(5,\)"),
        ((symbols, tables, choice[:2]), "choice: 2 tables; 3, one a row"),
        ((symbols, tables, choice + np.uint8(2)), "choice: table 2; 0 to 1, or 255"),
        ((symbols + np.int16(1), tables, choice + np.uint8(255)), "a row that is not zero"),
    ):
        with pytest.raises(InputError, match=says):
            rans.encode(*bad)
    for bad, says in (
        ((stream.astype(np.int8), tables, choice, 5), "stream: int8"),
        ((stream, tables, choice, -1), "width: 3 rows of -1"),
        ((stream, tables, choice, 1 << 30), "width"),
        ((stream[:-1], tables, choice, 5), "stream: another length than it says"),
        ((stream[:100], tables, choice, 5), "stream: shorter than its header"),
        ((stream, tables, choice, 4), "damaged, or was made with other tables"),
    ):
        with pytest.raises(InputError, match=says):
            rans.decode(*bad)


def test_the_extension_checks_lengths_again(native: str) -> None:
    """Lengths that do not agree are refused below Python as well, before anything is read."""
    tables = rans.Tables(np.full((2, 256), 16, np.uint16))
    symbols, choice = np.zeros((3, 5), np.int16), np.zeros(3, np.uint8)
    out = np.empty(136 + 4 * symbols.size, np.uint8)
    extension, index = choose.native, choose.index()
    assert extension is not None
    for arguments in (
        (tables.frequencies[:, :255].copy(), choice, 5, symbols, out),
        (tables.frequencies, choice + np.uint8(2), 5, symbols, out),
        (tables.frequencies, choice, 4, symbols, out),
        (tables.frequencies, choice, -5, symbols, out),
        (tables.frequencies, choice, 0, symbols, out),
        (tables.frequencies, choice, 5, symbols, out[:-1]),
        (tables.frequencies * np.uint16(0), choice, 5, symbols, out),
        (tables.frequencies, choice, 5, out[:30].view(np.int16).reshape(3, 5), out),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            extension.rans_encode(*arguments)
    stream = rans.encode(symbols, tables, choice)
    for arguments in (
        (99, tables.lookups, choice, 5, stream, symbols),
        (index, tables.lookups[:, 1:].copy(), choice, 5, stream, symbols),
        (index, tables.lookups, choice + np.uint8(2), 5, stream, symbols),
        (index, tables.lookups, choice, 5, stream, symbols[:2].copy()),
        (index, tables.lookups, choice, 1 << 62, stream, symbols),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            extension.rans_decode(*arguments)


def test_threads_of_python(kernel: str) -> None:
    """Nothing but the arguments is read or written: two threads decode two streams at once."""
    from concurrent.futures import ThreadPoolExecutor

    rng = np.random.default_rng(6)
    tables = make_tables(rng)
    cases = [make_rows(rng, 40, 256, tables) for _ in range(4)]
    streams = [rans.encode(symbols, tables, choice) for symbols, choice in cases]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda s, c: rans.decode(s, tables, c[1], 256), streams, cases)
        for back, (symbols, _) in zip(found, cases, strict=True):
            assert np.array_equal(back, symbols)


def test_kernels_are_all_here() -> None:
    """The suite above ran on more than NumPy wherever there is an extension."""
    assert len(kernels.available()) > 1 or choose.native is None
