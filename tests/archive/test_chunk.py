"""The bytes of a chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tqcli import kernels
from tqcli.archive import chunk, tables
from tqcli.errors import InputError
from tqcli.kernels import rans


def make(seed: int, components: int, tokens: int) -> tuple[Any, Any]:
    """Symbols of every width, with the tables that suit them; some rows silent."""
    rng = np.random.default_rng(seed)
    choice = rng.integers(0, 64, components).astype(np.uint8)
    choice[rng.random(components) < 0.2] = rans.SILENT
    scale = np.where(choice == rans.SILENT, 0, 2 ** (choice / 6 - 4))
    symbols = np.rint(rng.laplace(size=(components, tokens)) * scale[:, None])
    symbols[(rng.random(symbols.shape) < 0.01) & (scale[:, None] > 0)] = rng.choice([-32767, 32767])
    return symbols.astype(np.int16), choice


@pytest.mark.parametrize("tokens", [0, 1, 3, 31, 32, 100, 256])
def test_round_trip(kernel: str, tokens: int) -> None:
    """Any symbols under any tables, whole rows of them under the wide ones."""
    for components in (1, 60):
        symbols, choice = make(20 + tokens, components, tokens)
        assert np.array_equal(chunk.unpack(chunk.pack(symbols, choice), choice, tokens), symbols)


def test_kernels_agree() -> None:
    """The same bytes, whichever kernel runs."""
    symbols, choice = make(30, 50, 77)
    payloads = []
    for name in kernels.available():
        with kernels.use(name):
            payloads.append(chunk.pack(symbols, choice).tobytes())
    assert len(set(payloads)) == 1


def test_length() -> None:
    """Within 1 % of the entropy of the tables, low bits included, on rows as they are meant."""
    rng = np.random.default_rng(31)
    choice = np.repeat(np.arange(10, 64), 4).astype(np.uint8)
    scale = 2 ** (choice / 6 - 4.0)[:, None]
    symbols = np.rint(rng.laplace(size=(len(choice), 256)) * scale).astype(np.int16)
    shape, shift = tables.shape_of(choice)
    halved = (symbols + (1 << shift >> 1)[:, None]) >> shift[:, None]
    slots = tables.family().frequencies[shape]
    place = np.where(np.abs(halved) < 128, halved, rans.ESCAPE) + 128
    own = np.take_along_axis(slots, place, axis=1)
    bits = np.where((own > 0) & (place > 0), 12 - np.log2(np.maximum(own, 1)), 0)
    escape = 12 - np.log2(slots[:, :1]) + 16
    bits = np.where((own > 0) & (place > 0), bits, escape) + shift[:, None]
    assert len(chunk.pack(symbols, choice)) - 136 <= 1.01 * bits.sum() / 8


def test_damage_ends_in_one_line() -> None:
    """Cut or altered anywhere: an error, or symbols of the right shape; never more."""
    symbols, choice = make(32, 40, 64)
    whole = chunk.pack(symbols, choice)
    rng = np.random.default_rng(33)
    refused = 0
    for _ in range(400):
        bad = whole.copy()
        if rng.random() < 0.4:
            bad = bad[: rng.integers(len(bad))]
        else:
            bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        try:
            assert chunk.unpack(bad, choice, 64).shape == symbols.shape
        except InputError:
            refused += 1
    assert refused > 200
    with pytest.raises(InputError, match="damaged"):
        chunk.unpack(whole, choice, 63)
    with pytest.raises(InputError, match="damaged"):
        chunk.unpack(whole[:20], np.full(40, 63, np.uint8), 64)


def test_a_symbol_beyond_16_bits_is_refused() -> None:
    """A halved symbol that was never halved from 16 bits."""
    choice = np.array([63], np.uint8)
    halved = np.full((1, 4), 30000, np.int16)
    stream = rans.encode(halved, tables.family(), tables.shape_of(choice)[0])
    with pytest.raises(InputError, match="beyond 16 bits"):
        chunk.unpack(np.concatenate([stream, np.zeros(2, np.uint8)]), choice, 4)
