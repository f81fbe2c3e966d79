"""Arrays in, arrays out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tqcli.archive.api import decode, encode
from tqcli.archive.cache import Chunk
from tqcli.archive.code import Code
from tqcli.errors import InputError, UsageError
from tqcli.rope import Rope, apply_rope

TOKENS = 600
ROPE = Rope("default", inv_freq=(1.0, 0.3, 0.1, 0.01))


@pytest.fixture(scope="module")
def layers(helpers: Any) -> list[Any]:
    """K after RoPE and V of a cache whose positions begin at 1,000."""
    cache = helpers.Cache(TOKENS, seed=21)
    pairs = [cache.read(i, 0, TOKENS) for i in range(helpers.layers)]
    return [(apply_rope(k, POSITIONS, ROPE), v) for k, v in pairs]


POSITIONS = np.arange(1000, 1000 + TOKENS)


def options(code: Code) -> dict[str, Any]:
    """What decoding must be told again."""
    return {"positions": POSITIONS, "ropes": [ROPE] * len(code.layers)}


def test_round_trip(code: Code, layers: list[Any]) -> None:
    """The first four tokens are float16 roundings, the others near; K is turned back and forth."""
    archive = encode(layers, code, **options(code))
    back = decode(archive, code, **options(code))
    for (k, v), (k_hat, v_hat) in zip(layers, back, strict=True):
        for x, y in ((k, k_hat), (v, v_hat)):
            assert y.shape == x.shape
            assert y.dtype == np.float16
            assert np.array_equal(y[:, :4], x[:, :4].astype(np.float16))
            assert np.square(y.astype(np.float64) - x).sum() < 0.01 * np.square(x).sum()
    values = sum(x.size for pair in layers for x in pair)
    assert 8 * archive.nbytes / values < 4
    unturned = encode(layers, code)  # K taken as it is: also near, at more bytes
    assert unturned.nbytes > 1.1 * archive.nbytes


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (2, 6), (0, 0), (250, 270), (259, 600)])
def test_some_tokens(code: Code, layers: list[Any], start: int, stop: int) -> None:
    """A range is what the whole has there, and needs none of the other chunks."""
    archive = encode(layers, code, **options(code))
    whole = decode(archive, code, **options(code), dtype=np.float32)
    (stretch,) = archive.stretches
    needed = [
        part
        if part.start < stop and part.start + part.tokens > start
        else Chunk(part.start, part.tokens, part.payload[:0])
        for part in stretch.chunks
    ]
    partial = replace(archive, stretches=[replace(stretch, chunks=needed)])
    some = decode(partial, code, **options(code), start=start, stop=stop, dtype=np.float32)
    for pair, part in zip(whole, some, strict=True):
        for x, y in zip(pair, part, strict=True):
            assert np.array_equal(x[:, start:stop], y)


def test_a_damaged_chunk_is_named(code: Code, layers: list[Any]) -> None:
    """By its tokens."""
    archive = encode(layers, code, **options(code))
    (stretch,) = archive.stretches
    chunks = list(stretch.chunks)
    chunks[1] = replace(chunks[1], payload=chunks[1].payload[:-1])
    bad = replace(archive, stretches=[replace(stretch, chunks=chunks)])
    with pytest.raises(InputError, match="tokens 260 to 516: stream: another length"):
        decode(bad, code, **options(code))
    decode(bad, code, **options(code), stop=260)


def test_short_caches(code: Code, layers: list[Any]) -> None:
    """Four tokens and fewer are all float16."""
    for tokens in (0, 1, 4, 5):
        short = [(k[:, :tokens], v[:, :tokens]) for k, v in layers]
        archive = encode(short, code)
        assert len(archive.stretches) == (tokens > 4)
        for (k, v), (k_hat, v_hat) in zip(short, decode(archive, code), strict=True):
            assert np.array_equal(k_hat[:, :4], k[:, :4].astype(np.float16))
            assert np.array_equal(v_hat[:, :4], v[:, :4].astype(np.float16))


def test_bad_arguments(code: Code, layers: list[Any]) -> None:
    """Each is one line that says what came and what is allowed."""
    k, v = layers[1]
    for bad, says in (
        (layers[:-1], "layers: 3; 4"),
        ([layers[0], (k[:, :-1], v), *layers[2:]], r"layers.1: shape \(2, 599, 8\)"),
        ([layers[0], (k, v[:1]), *layers[2:]], r"layers.1: shape \(1, 600, 6\)"),
        ([(x[0], y) for x, y in layers], "layers.0: shape"),
        ([(x * np.float32(1e6), y) for x, y in layers], "K of the first tokens: beyond float16"),
    ):
        with pytest.raises(InputError, match=says):
            encode(bad, code)
    with pytest.raises(InputError, match="positions"):
        encode(layers, code, positions=POSITIONS[1:])
    with pytest.raises(InputError, match="ropes: 1; 4"):
        encode(layers, code, ropes=[ROPE])
    archive = encode(layers, code)
    for start, stop in ((-1, 5), (5, 4), (0, 601)):
        with pytest.raises(UsageError, match="tokens"):
            decode(archive, code, start=start, stop=stop)
