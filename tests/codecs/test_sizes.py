"""Sizes: what a format costs, padding and norms included, for every head size people meet."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from tqcli.codecs import codec, codec_ids, describe, from_config
from tqcli.codecs.base import Codec
from tqcli.errors import InputError, UsageError

Make = Callable[..., np.ndarray]
DIMS = (64, 80, 96, 112, 128, 192, 256, 576)
# id: values padded to, values a block, bytes a block
LAYOUTS = {
    "f32": (1, 1, 4),
    "f16": (1, 1, 2),
    "bf16": (1, 1, 2),
    "q8_0": (32, 32, 34),
    "q4_0": (32, 32, 18),
    "q4_1": (32, 32, 20),
    "q5_0": (32, 32, 22),
    "q5_1": (32, 32, 24),
    "iq4_nl": (32, 32, 18),
    "turbo3": (128, 128, 50),
    "turbo3@2026-03": (128, 128, 50),
    "turbo3-b32": (128, 32, 14),
    "turbo3-v0": (128, 128, 52),
    "turbo3-qjl": (128, 128, 52),
    "turbo3-qjl@scale": (128, 128, 52),
    "turbo3-qjl@shipped": (128, 128, 52),
    "turbo2": (128, 128, 34),
    "turbo2-b32": (128, 32, 10),
    "turbo4": (128, 128, 66),
    "turbo4@2026-03": (128, 128, 68),
    "turbo4-qjl": (128, 128, 68),
    "turbo2-g64": (64, 64, 18),
    "turbo3-g64": (64, 64, 26),
    "turbo4-g64": (64, 64, 34),
    "trellis2": (128, 128, 34),
    "trellis3": (128, 128, 50),
    "trellis4": (128, 128, 66),
    "trellis2-g64": (64, 64, 18),
    "trellis3-g64": (64, 64, 26),
    "trellis4-g64": (64, 64, 34),
}
# Sizes of what only a table makes a codec: values padded to, values a block, bytes a block.
TABLED = {"turbo3_tcq": (128, 128, 52), "turbo2_tcq": (128, 128, 36)}
GGML = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")
# Bits a value at head_dim 128, as the format page prints them.
PRINTED = {
    "turbo3": 3.125,
    "turbo3-b32": 3.5,
    "turbo3-v0": 3.25,
    "turbo3-qjl": 3.25,
    "turbo2": 2.125,
    "turbo2-b32": 2.5,
    "turbo4": 4.125,
    "turbo4@2026-03": 4.25,
    "turbo4-qjl": 4.25,
    "turbo3-g64": 3.25,
    "trellis2": 2.125,
    "trellis3": 3.125,
    "trellis4": 4.125,
    "q8_0": 8.5,
    "q4_0": 4.5,
    "f16": 16,
}


def fits(name: str, dim: int) -> bool:
    """llama.cpp refuses heads that its blocks do not divide; the rest pads."""
    return name not in GGML or dim % 32 == 0


def test_every_id_is_listed() -> None:
    """A new format may not come without its size."""
    assert set(codec_ids()) == {*LAYOUTS, *TABLED}
    assert len(codec_ids()) == len(set(codec_ids()))


@pytest.mark.parametrize("name", [*LAYOUTS, *TABLED])
def test_description(name: str) -> None:
    """Every id has its sizes, with or without a table."""
    align, values, size = (LAYOUTS | TABLED)[name]
    described = describe(name)
    found = described.alignment, described.values_per_block, described.block_bytes
    assert found == (align, values, size)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dim", DIMS)
def test_law(name: str, dim: int, gaussian: Make) -> None:
    """Blocks have the promised shape, bits count the padding, and vectors come back as long."""
    align, values, size = LAYOUTS[name]
    made = codec(name)
    if not fits(name, dim):
        with pytest.raises(InputError, match=f"head_dim {dim} is no multiple of 32"):
            made.encode(gaussian(1, dim))
        return
    padded = -(-dim // align) * align
    assert made.padded_dim(dim) == padded
    assert made.bits_per_value(dim) == 8 * size * padded / values / dim
    x = gaussian(2, 3, dim)
    blocks = made.encode(x)
    assert blocks.dtype == np.uint8
    assert blocks.shape == (2, 3, padded // values, size)
    assert blocks.nbytes * 8 == pytest.approx(made.bits_per_value(dim) * x.size)
    decoded = made.decode(blocks, dim)
    assert decoded.shape == x.shape
    assert decoded.dtype == np.float32
    assert made.decode(blocks).shape == (2, 3, padded)
    assert made.decode(blocks, dim, domain="rotated").shape == (2, 3, padded)
    cosine = (x * decoded).sum() / np.linalg.norm(x) / np.linalg.norm(decoded)
    assert cosine > 0.9


@pytest.mark.parametrize(("name", "bits"), PRINTED.items())
def test_printed_bits(name: str, bits: float) -> None:
    """The figures that people compare formats by."""
    assert codec(name).bits_per_value(128) == bits


@pytest.mark.parametrize("name", LAYOUTS)
def test_vectors_are_independent(name: str, gaussian: Make) -> None:
    """Any slice of the tensor has the same bytes: a cache grows token by token."""
    made, x = codec(name), gaussian(2, 5, 192)
    whole = made.encode(x)
    for i in range(2):
        for j in range(5):
            assert np.array_equal(whole[i, j], made.encode(x[i, j]))
    decoded = made.decode(whole, 192)
    assert np.array_equal(decoded[1, 3], made.decode(whole[1, 3], 192))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_floats_are_their_float32_values(name: str, dtype: str, gaussian: Make) -> None:
    """A dump in 16 bits gives the bytes of the same values in 32, decoding rounds once."""
    made = codec(name)
    half = gaussian(50, 128).astype(dtype)
    blocks = made.encode(half)
    assert np.array_equal(blocks, made.encode(half.astype(np.float32)))
    rounded = made.decode(blocks, 128).astype(dtype)
    assert made.decode(blocks, 128, dtype=dtype).tobytes() == rounded.tobytes()


@pytest.mark.parametrize("name", LAYOUTS)
def test_strides_and_order_do_not_matter(name: str, gaussian: Make) -> None:
    """Transposed, reversed and sliced arrays are what their values say."""
    made = codec(name)
    x = gaussian(6, 4, 128)
    views = (x.transpose(1, 0, 2), x[::-1], x[:, ::2], np.asfortranarray(x))
    for view in views:
        assert np.array_equal(made.encode(view), made.encode(view.copy(order="C")))
    blocks = made.encode(x)
    flipped = blocks[::-1, ::2]
    assert np.array_equal(made.decode(flipped, 128), made.decode(flipped.copy(), 128))


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_vectors(name: str) -> None:
    """A sequence of length 0 is legal and stays empty."""
    made = codec(name)
    x = np.zeros((1, 2, 0, 128), np.float32)
    blocks = made.encode(x)
    assert blocks.shape == (1, 2, 0, *made.blocks_shape(128))
    assert made.decode(blocks, 128).shape == (1, 2, 0, 128)
    assert made.vanished(x, blocks) == 0


@pytest.mark.parametrize("name", LAYOUTS)
def test_config_round_trip(name: str, gaussian: Make) -> None:
    """The record in a file makes a codec that writes and reads the same bytes."""
    made = codec(name)
    again = from_config(made.config(), "x")
    assert again.config() == made.config() == {"id": name}
    x = gaussian(5, 128)
    assert np.array_equal(again.encode(x), made.encode(x))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(3, np.uint8),
        np.zeros((2, 1, 51), np.uint8),
        np.zeros((2, 1, 50), np.int8),
        np.zeros((2, 3, 10), np.uint8),
        np.zeros((2, 3, 14), np.uint8),
    ],
    ids=lambda a: f"{a.dtype}-{a.shape}",
)
def test_blocks_of_another_shape(name: str, wrong: np.ndarray) -> None:
    """Bytes of another layout are refused by their shape where it can tell."""
    with pytest.raises(InputError, match=name.replace("@", ".")):
        codec(name).decode(wrong, 128)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.complex64, bool])
def test_other_dtypes_are_refused(name: str, dtype: type) -> None:
    """Silent conversion could lose what the caller meant."""
    with pytest.raises(InputError, match="float32, float16 and bfloat16"):
        codec(name).encode(np.zeros((2, 128), dtype))


def test_wrong_requests() -> None:
    """Each is one typed error that says what is legal."""
    made = codec("turbo3")
    blocks = made.encode(np.ones((2, 128), np.float32))
    with pytest.raises(InputError, match="scalar"):
        made.encode(np.float32(1) * np.ones((), np.float32))
    with pytest.raises(InputError, match="head_dim 0"):
        made.encode(np.ones((2, 0), np.float32))
    with pytest.raises(InputError, match="a vector of 256 takes 256"):
        made.decode(blocks, 256)
    with pytest.raises(UsageError, match="original and rotated"):
        made.decode(blocks, 128, domain="both")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="float32, float16 and bfloat16"):
        made.decode(blocks, 128, dtype=np.float64)
    with pytest.raises(UsageError, match=r"unknown cache type 'turbo9'; did you mean turbo\d"):
        codec("turbo9")
    with pytest.raises(UsageError, match="takes no codebook"):
        codec("q8_0", codebook=made.codebook)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [n for n in LAYOUTS if "turbo" not in n and "trellis" not in n])
def test_codes_need_a_codebook(name: str) -> None:
    """Plain floats and ggml types have no levels to show."""
    made = codec(name)
    with pytest.raises(UsageError, match="no codebook codes"):
        made.codes(made.encode(np.ones((1, 128), np.float32)))


def error(made: Codec, x: np.ndarray) -> float:
    """Error energy over signal energy."""
    difference = made.decode(made.encode(x), x.shape[-1]).astype(np.float64) - x
    return float((difference**2).sum() / (x.astype(np.float64) ** 2).sum())


@pytest.mark.parametrize(
    "ladder",
    [
        ("turbo2", "turbo3", "turbo4", "f16"),
        ("turbo2-g64", "turbo3-g64", "turbo4-g64"),
        ("turbo2-b32", "turbo3-b32", "turbo4"),
        ("q4_0", "q5_0", "q8_0", "bf16", "f16", "f32"),
        ("q4_1", "q5_1", "q8_0"),
        ("turbo3-qjl@shipped", "turbo3-qjl@scale", "turbo3-qjl", "turbo3", "turbo4-qjl"),
        ("turbo4@2026-03", "turbo4"),
        ("turbo2", "trellis2", "turbo3", "trellis3", "turbo4", "trellis4"),
        ("turbo3-g64", "trellis3-g64", "turbo4-g64", "trellis4-g64"),
    ],
    ids=" < ".join,
)
def test_more_bits_or_a_better_table_is_less_error(ladder: tuple[str, ...], gaussian: Make) -> None:
    """On Gaussian vectors each step is a clear improvement."""
    x = gaussian(500, 128)
    errors = [error(codec(name), x) for name in ladder]
    assert all(b < 0.9 * a for a, b in pairwise(errors)), errors
