"""The cache types of mainline llama.cpp: bytes, the rotation in front, and our iq4_nl encoder."""

from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np
import pytest
from scipy.linalg import hadamard

from tqcli.codecs import codec
from tqcli.codecs.ggml import BLOCK_BYTES, rotation_size
from tqcli.errors import InputError, UsageError

Make = Callable[..., np.ndarray]


def qtype(name: str) -> gguf.GGMLQuantizationType:
    """A type as the gguf package knows it."""
    return gguf.GGMLQuantizationType[name.upper()]


def test_block_sizes() -> None:
    """The table here is that of the gguf package, which is imported only when it is needed."""
    sizes = {n: gguf.GGML_QUANT_SIZES[qtype(n)] for n in BLOCK_BYTES}
    assert sizes == {name: (32, size) for name, size in BLOCK_BYTES.items()}


@pytest.mark.parametrize("name", [n for n in BLOCK_BYTES if n != "iq4_nl"])
def test_bytes_are_those_of_gguf(name: str, gaussian: Make) -> None:
    """The package that writes model files writes the same blocks."""
    x = gaussian(3, 4, 192)
    expected = gguf.quants.quantize(x.reshape(12, 192), qtype(name))
    assert codec(name).encode(x).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", BLOCK_BYTES)
def test_decoding_is_that_of_gguf(name: str, gaussian: Make) -> None:
    """And it reads ours to the same floats."""
    made = codec(name)
    blocks = made.encode(gaussian(12, 192))
    expected = gguf.quants.dequantize(blocks.reshape(12, -1), qtype(name))
    assert made.decode(blocks, 192).tobytes() == np.asarray(expected, np.float32).tobytes()


def test_q8_0_by_hand(gaussian: Make) -> None:
    """fp16 d = max|x| / 127, then 32 signed bytes: written out from the format page."""
    x = gaussian(40, 32)
    blocks = codec("q8_0").encode(x)[:, 0]
    d = np.abs(x).max(axis=1) / np.float32(127)
    assert np.array_equal(blocks[:, :2].copy().view("<f2")[:, 0], d.astype(np.float16))
    expected = x / d[:, None]
    codes = blocks[:, 2:].view(np.int8)
    assert np.abs(codes - expected).max() <= 0.5 + 1e-4


def test_q4_0_by_hand(gaussian: Make) -> None:
    """fp16 d = signed max / -8; nibble j and j + 16 share byte j."""
    x = gaussian(40, 32)
    blocks = codec("q4_0").encode(x)[:, 0]
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)
    d = largest / np.float32(-8)
    assert np.array_equal(blocks[:, :2].copy().view("<f2"), d.astype(np.float16))
    codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    assert np.array_equal(codes, np.clip(np.floor(x / d + np.float32(8.5)), 0, 15))


LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float64
)


def iq4_nl(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and codes of blocks that our encoder wrote for (n, 32) values."""
    blocks = codec("iq4_nl").encode(x)[:, 0]
    codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    return blocks[:, :2].copy().view("<f2")[:, 0].astype(np.float64), codes


def test_iq4_nl_loses_less_than_q4_0(gaussian: Make) -> None:
    """gguf has no encoder for it; ours decodes there with the gain the type exists for."""
    x = gaussian(2000, 128)
    errors = {}
    for name in ("iq4_nl", "q4_0"):
        decoded = gguf.quants.dequantize(codec(name).encode(x).reshape(2000, -1), qtype(name))
        errors[name] = ((decoded - x) ** 2).mean()
    assert 0.004 < errors["iq4_nl"] < 0.9 * errors["q4_0"]


def test_iq4_nl_codes_are_nearest(gaussian: Make) -> None:
    """Codes stand for the nearest level under the scale that puts the largest value on -127."""
    x = gaussian(200, 32)
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1).astype(np.float64)
    scaled = x / largest * LEVELS[0]
    _, codes = iq4_nl(x)
    distance = np.abs(scaled[:, :, None] - LEVELS)
    chosen = np.take_along_axis(distance, codes[:, :, None].astype(int), axis=2)[:, :, 0]
    assert np.allclose(chosen, distance.min(axis=2), atol=1e-4)


def test_iq4_nl_scale_is_the_best_for_its_codes(gaussian: Make) -> None:
    """Least squares with weights x^2, by formula and by trying the fp16 numbers around it."""
    x = gaussian(200, 32)
    scale, codes = iq4_nl(x)
    weight, levels = x.astype(np.float64) ** 2, LEVELS[codes]
    best = (weight * levels * x).sum(axis=1) / (weight * levels**2).sum(axis=1)
    assert np.allclose(scale, best, rtol=2**-11 * 1.01, atol=0)

    def loss(d: np.ndarray) -> np.ndarray:
        return np.asarray((weight * (x - d[:, None] * levels) ** 2).sum(axis=1))

    stored = scale.astype(np.float16)
    for toward in (-np.inf, np.inf):
        other = np.nextafter(stored, np.float16(toward)).astype(np.float64)
        assert (loss(scale) <= loss(other) * (1 + 1e-6)).all()


def test_iq4_nl_keeps_what_it_can_hold() -> None:
    """Levels times a scale come back exactly."""
    x = np.tile(LEVELS, 2)[None].astype(np.float32) / 64
    made = codec("iq4_nl")
    assert np.array_equal(made.decode(made.encode(x), 32), x)


# K: the largest power of two from 64 that divides the head; V: always 64.
ROTATIONS = {64: (64, 64), 128: (128, 64), 192: (64, 64), 256: (256, 64), 384: (128, 64)}
ROTATIONS |= {512: (512, 64), 576: (64, 64)}


@pytest.mark.parametrize(("dim", "sizes"), ROTATIONS.items())
def test_rotation_sizes(dim: int, sizes: tuple[int, int]) -> None:
    """One name, two codecs: the size follows side and head, and stands in the id."""
    for side, size in zip("kv", sizes, strict=True):
        assert rotation_size(side, dim) == size
        assert codec("q4_0+rot", side=side, head_dim=dim).id == f"q4_0+rot{size}"


@pytest.mark.parametrize("dim", [32, 80, 96, 112])
def test_heads_that_llama_does_not_rotate(dim: int) -> None:
    """No multiple of 64, no rotation: to pretend would name another codec."""
    with pytest.raises(InputError, match="does not rotate such heads"):
        codec("q4_0+rot", side="k", head_dim=dim)
    with pytest.raises(InputError, match=f"head_dim {dim} is no multiple of 64"):
        codec("q4_0+rot64").encode(np.zeros((1, dim), np.float32))


def test_rotation_needs_its_size() -> None:
    """Plain +rot is no codec until side and head_dim are known; odd sizes never are."""
    with pytest.raises(UsageError, match=r"give the size, as in q4_0\+rot128"):
        codec("q4_0+rot")
    for size in (32, 96, 100):
        with pytest.raises(InputError, match="powers of two from 64"):
            codec(f"q8_0+rot{size}")
    with pytest.raises(UsageError, match="unknown cache type"):
        codec("f16+rot64")


@pytest.mark.parametrize("name", BLOCK_BYTES)
@pytest.mark.parametrize("size", [64, 128])
def test_rotated_types(name: str, size: int, gaussian: Make) -> None:
    """The base type behind an orthonormal Hadamard: same bytes a value, rotated domain inside."""
    made, base = codec(f"{name}+rot{size}"), codec(name)
    x = gaussian(20, 256)
    blocks = made.encode(x)
    assert blocks.shape == base.encode(x).shape
    matrix = (hadamard(size) / np.sqrt(size)).astype(np.float64)
    rotated = (x.reshape(-1, size) @ matrix).reshape(20, 256)
    inside = made.decode(blocks, 256, domain="rotated")
    assert inside.tobytes() == base.decode(blocks, 256).tobytes()
    assert ((inside - rotated) ** 2).mean() < 0.02
    back = (inside.reshape(-1, size) @ matrix).reshape(20, 256)
    assert np.allclose(made.decode(blocks, 256), back, atol=1e-5)


def test_rotation_helps_outliers(gaussian: Make) -> None:
    """Why llama.cpp put it there: one large channel costs q4_0 its neighbours."""
    x = gaussian(300, 128)
    x[:, 17] *= 30

    def neighbours(name: str) -> float:
        made = codec(name)
        error = made.decode(made.encode(x), 128) - x
        return float(np.delete(error, 17, axis=1).astype(np.float64).var())

    assert neighbours("q4_0+rot128") < 0.7 * neighbours("q4_0")
