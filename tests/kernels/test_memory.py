"""Where kernels read and write: nowhere else, from any address, on any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tqcli import kernels
from tqcli.kernels import reference

CANARY = 0xA5


def _fenced(nbytes: int, shift: int) -> tuple[Any, Any]:
    """A buffer of canaries and the part of it, at any address, that may be written."""
    buffer = np.full(nbytes + 256, CANARY, np.uint8)
    return buffer, buffer[64 + shift : 64 + shift + nbytes]


def _untouched(buffer: Any, shift: int, nbytes: int) -> bool:
    fence = np.concatenate([buffer[: 64 + shift], buffer[64 + shift + nbytes :]])
    return bool(np.all(fence == CANARY))


@pytest.mark.parametrize("shift", [0, 1, 2, 3, 5, 31, 63])
def test_encode_writes_its_bytes_only(native: str, helpers: Any, shift: int) -> None:
    """No byte in front of the blocks or behind them, at any alignment of either array."""
    for layout in (helpers.layout(3), helpers.layout(3, 128, 32), helpers.layout(4, 64, 64, 4)):
        for n in (0, 1, 7, 15, 16, 17, 40):
            x = np.random.default_rng(n).standard_normal((n, layout.group)).astype(np.float32)
            _, room = _fenced(x.nbytes, shift)
            unaligned = room.view(np.float32).reshape(x.shape)
            unaligned[...] = x
            buffer, out = _fenced(n * layout.group_bytes, shift)
            out = out.reshape(n, layout.group_bytes)
            kernels.encode(unaligned, layout, out=out)
            assert np.array_equal(out, reference.encode(x, layout))
            assert _untouched(buffer, shift, out.size)


@pytest.mark.parametrize("shift", [0, 1, 2, 3, 5, 31, 63])
@pytest.mark.parametrize("rotated", [False, True])
def test_decode_writes_its_floats_only(
    native: str, helpers: Any, shift: int, rotated: bool
) -> None:
    """No byte in front of the values or behind them, at any alignment of either array."""
    for layout in (helpers.layout(3), helpers.layout(2, 128, 32), helpers.layout(4, 64, 64, 4)):
        for n in (0, 1, 7, 15, 16, 17, 40):
            rng = np.random.default_rng(n)
            blocks = rng.integers(0, 120, (n, layout.group_bytes), np.uint8)
            _, room = _fenced(blocks.size, shift)
            given = room.reshape(blocks.shape)
            given[...] = blocks
            for dtype in helpers.dtypes:
                expected = reference.decode(blocks, layout, rotated=rotated, dtype=dtype)
                buffer, out = _fenced(expected.nbytes, shift)
                values = out.view(dtype).reshape(expected.shape)
                kernels.decode(given, layout, rotated=rotated, dtype=dtype, out=values)
                assert helpers.same(values, expected)
                assert _untouched(buffer, shift, out.size)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_pack_writes_its_bytes_only(native: str, bits: int) -> None:
    """Nor do packing and unpacking write elsewhere."""
    codes = np.random.default_rng(9).integers(0, 2**bits, (9, 24), np.uint8)
    buffer, out = _fenced(9 * 3 * bits, 3)
    kernels.pack_codes(codes, bits, out=out.reshape(9, 3 * bits))
    assert np.array_equal(out.reshape(9, -1), reference.pack_codes(codes, bits))
    assert _untouched(buffer, 3, out.size)
    buffer, levels = _fenced(codes.size, 5)
    kernels.unpack_codes(out.reshape(9, -1), bits, out=levels.reshape(9, 24))
    assert np.array_equal(levels.reshape(9, 24), codes)
    assert _untouched(buffer, 5, levels.size)


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_nothing(kernel: str, helpers: Any, threads: int) -> None:
    """Work is cut into parts of whole vectors; the parts give what one thread gives."""
    layout = helpers.layout(3)
    x = np.random.default_rng(3).standard_normal((16_411, 128)).astype(np.float32)
    one = kernels.encode(x, layout, threads=1)
    assert np.array_equal(kernels.encode(x, layout, threads=threads), one)
    values = kernels.decode(one, layout, threads=threads)
    assert np.array_equal(values, kernels.decode(one, layout, threads=1))
    codes = kernels.codes(one, layout, threads=threads)
    assert np.array_equal(codes, kernels.codes(one, layout, threads=1))
    packed = kernels.pack_codes(codes, 3, threads=threads)
    assert np.array_equal(kernels.unpack_codes(packed, 3, threads=threads), codes)


def test_strided_input(kernel: str, helpers: Any) -> None:
    """Views are encoded as the array they show, and are not changed."""
    layout = helpers.layout(3)
    x = np.random.default_rng(6).standard_normal((20, 256)).astype(np.float32)
    for view in (x[:, ::2], x[::-3, :128], x[:, 128:], np.asfortranarray(x[:, :128])):
        expected = reference.encode(np.ascontiguousarray(view), layout)
        assert np.array_equal(kernels.encode(view, layout), expected)
