"""Compiled kernels against the specification, bit for bit."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from tqcli import kernels, rotation
from tqcli.kernels import reference


def _layouts(helpers: Any, bits: int, **options: Any) -> Any:
    for (group, block), header, corrected in product(helpers.shapes, (2, 4), (True, False)):
        yield helpers.layout(bits, group, block, header, corrected, **options)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("skewed", [False, True], ids=["symmetric", "skewed"])
def test_encode_hostile(native: str, helpers: Any, bits: int, skewed: bool) -> None:
    """Any float may come: huge, denormal, zero, NaN; in any layout and float type."""
    rng = np.random.default_rng(1009 + bits)
    for layout in _layouts(helpers, bits, skewed=skewed):
        x = helpers.hostile(rng, 300, layout.group)
        for dtype in helpers.dtypes:
            given = helpers.cast(x, dtype)
            assert helpers.same(kernels.encode(given, layout), reference.encode(given, layout))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("rotated", [False, True], ids=["original", "rotated"])
def test_decode_any_bytes(native: str, helpers: Any, bits: int, rotated: bool) -> None:
    """Any bytes may come, and with them any norm: NaN, infinite, negative, denormal."""
    rng = np.random.default_rng(2003 + bits)
    for layout in _layouts(helpers, bits, skewed=True):
        blocks = rng.integers(0, 256, (200, layout.group_bytes), np.uint8)
        for dtype in helpers.dtypes:
            expected = reference.decode(blocks, layout, rotated=rotated, dtype=dtype)
            found = kernels.decode(blocks, layout, rotated=rotated, dtype=dtype)
            assert helpers.same(found, expected)


@pytest.mark.parametrize("rotated", [False, True], ids=["original", "rotated"])
def test_decode_every_norm(native: str, helpers: Any, rotated: bool) -> None:
    """All 65,536 norms, in each float type: rounding to 16 bits meets every case."""
    layout = helpers.layout(3)
    rng = np.random.default_rng(31)
    blocks = rng.integers(0, 256, (1 << 16, layout.group_bytes), np.uint8)
    blocks[:, :2] = np.arange(1 << 16, dtype="<u2")[:, None].view(np.uint8)
    for dtype in helpers.dtypes:
        expected = reference.decode(blocks, layout, rotated=rotated, dtype=dtype)
        found = kernels.decode(blocks, layout, rotated=rotated, dtype=dtype)
        assert helpers.same(found, expected)


def test_encode_every_half(native: str, helpers: Any) -> None:
    """All float16 and bfloat16 values widen exactly: each is some vector's only value."""
    layout = helpers.layout(4)
    for dtype in helpers.dtypes[1:]:
        x = np.zeros((1 << 16, 128), dtype)
        x.view(np.uint16)[np.arange(1 << 16), np.arange(1 << 16) % 128] = np.arange(1 << 16)
        assert np.array_equal(kernels.encode(x, layout), reference.encode(x, layout))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("group", [64, 128])
def test_ties(native: str, helpers: Any, bits: int, group: int) -> None:
    """A value on a midpoint goes up: midpoints are taken from the rotated values themselves."""
    rng = np.random.default_rng(67 * bits + group)
    x = rng.standard_normal((64, group)).astype(np.float32)
    total = np.zeros(64, np.float32)
    for column in x.T:
        total += column * column
    y = rotation.rotate_columns(x.T * (np.float32(1) / np.sqrt(total)))
    for _ in range(40):
        ties = np.sort(rng.choice(y.ravel(), 2**bits - 1, replace=False))
        above = np.nextafter(ties, np.float32(2))
        layout = helpers.layout(bits, group, midpoints=ties)
        beyond = helpers.layout(bits, group, midpoints=above)
        blocks = kernels.encode(x, layout)
        assert np.array_equal(blocks, reference.encode(x, layout))
        assert np.array_equal(kernels.encode(x, beyond), reference.encode(x, beyond))
        assert not np.array_equal(blocks, kernels.encode(x, beyond))  # the ties are there


def test_tie_at_zero(native: str, helpers: Any) -> None:
    """Zero, of either sign, is the level above the middle, and a zero vector is nothing else."""
    layout = helpers.layout(3)
    x = np.zeros((33, 128), np.float32)
    x[::2] = -0.0
    assert np.all(kernels.codes(kernels.encode(x, layout), layout) == 4)


def test_one_hot_ties(native: str, helpers: Any) -> None:
    """The rotation of a one-hot vector is ± one number, here a midpoint."""
    size = rotation.SCALE[128]
    layout = helpers.layout(2, midpoints=[-size, 0, size])
    x = np.eye(128, dtype=np.float32)
    x = np.concatenate([x, -x])
    codes = kernels.codes(kernels.encode(x, layout), layout)
    assert np.array_equal(codes, reference.codes(reference.encode(x, layout), layout))
    assert set(np.unique(codes)) == {1, 3}


def test_equal_midpoints(native: str, helpers: Any) -> None:
    """A level that no value can have is legal: fitted tables may have some."""
    layout = helpers.layout(3, midpoints=[-0.1, -0.1, -0.1, 0, 0.05, 0.05, 0.2])
    x = np.random.default_rng(5).standard_normal((100, 128)).astype(np.float32)
    assert np.array_equal(kernels.encode(x, layout), reference.encode(x, layout))


def test_every_size(native: str, helpers: Any) -> None:
    """Numbers of vectors around every register width, down to none."""
    rng = np.random.default_rng(88)
    layout = helpers.layout(3)
    x = rng.standard_normal((131, 128)).astype(np.float32)
    blocks = reference.encode(x, layout)
    values = reference.decode(blocks, layout)
    rotated = reference.decode(blocks, layout, rotated=True, dtype=np.float16)
    for n in (*range(68), 127, 128, 129, 131):
        assert np.array_equal(kernels.encode(x[:n], layout), blocks[:n])
        assert np.array_equal(kernels.decode(blocks[:n], layout), values[:n])
        found = kernels.decode(blocks[:n], layout, rotated=True, dtype=np.float16)
        assert np.array_equal(found, rotated[:n])


def test_beyond_the_caches(native: str, helpers: Any) -> None:
    """Large outputs take another way to memory; they are the same."""
    layout = helpers.layout(3)
    blocks = np.random.default_rng(4).integers(0, 256, (34_000, layout.group_bytes), np.uint8)
    blocks[:, 1] &= 0x3B  # finite norms
    for rotated in (False, True):
        expected = reference.decode(blocks, layout, rotated=rotated)
        buffer = np.empty(expected.nbytes + 64, np.uint8)
        for shift in (0, 4, 16, 20):
            out = buffer[shift : shift + expected.nbytes].view(np.float32).reshape(-1, 128)
            kernels.decode(blocks, layout, rotated=rotated, out=out, threads=1)
            assert np.array_equal(out, expected)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_pack_and_unpack(native: str, bits: int) -> None:
    """Runs of every length, in bytes that the specification packs."""
    rng = np.random.default_rng(bits)
    for shape in ((8,), (3, 16), (1000, 128), (2, 3, 40), (0, 32), (70_000, 8)):
        codes = rng.integers(0, 2**bits, shape, np.uint8)
        packed = kernels.pack_codes(codes, bits)
        assert np.array_equal(packed, reference.pack_codes(codes, bits))
        assert np.array_equal(kernels.unpack_codes(packed, bits), codes)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_codes(native: str, helpers: Any, bits: int) -> None:
    """Codes are read out of every layout, past the headers."""
    rng = np.random.default_rng(17)
    for layout in _layouts(helpers, bits):
        blocks = rng.integers(0, 256, (77, layout.group_bytes), np.uint8)
        assert np.array_equal(kernels.codes(blocks, layout), reference.codes(blocks, layout))
