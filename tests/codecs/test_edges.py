"""Vectors that break naive codecs: zeros, spikes, denormals, values no block can hold."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from tqcli.codecs import VectorError, codec, codec_ids
from tqcli.codecs.base import all_finite
from tqcli.codecs.qjl import SPECS as QJL
from tqcli.codecs.tcq import SPECS as TCQ
from tqcli.codecs.trellis import SPECS as TRELLIS
from tqcli.codecs.turbo import SPECS as TURBO

Make = Callable[..., np.ndarray]
ALL = [name for name in codec_ids() if name not in TCQ]  # those need a table: test_tcq.py
FAMILY = [*TURBO, *QJL, *TRELLIS]
# Stored with a fp16 length or scale, so that large vectors cannot be held.
BLOCKED = [name for name in ALL if name not in ("f32", "f16", "bf16")]


@pytest.mark.parametrize("name", ALL)
def test_zero_stays_zero(name: str) -> None:
    """A padded or masked token comes back as exactly nothing, and is not called vanished."""
    made = codec(name)
    for zero in (0.0, -0.0):
        blocks = made.encode(np.full((3, 128), zero, np.float32))
        assert not made.decode(blocks, 128).any()
        assert not made.decode(blocks, 128, domain="rotated").any()
        assert made.vanished(np.zeros((3, 128), np.float32), blocks) == 0


@pytest.mark.parametrize("name", [*TURBO, *TRELLIS])
def test_negative_zero_is_zero(name: str) -> None:
    """The sign of a zero may not reach the bytes."""
    made = codec(name)
    x = np.zeros((2, 128), np.float32)
    x[:, ::2] = 1
    negative = np.where(x == 0, np.float32(-0.0), x)
    assert np.array_equal(made.encode(x), made.encode(negative))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("at", [0, 63, 127])
def test_one_hot(name: str, at: int) -> None:
    """All energy in one value: rotation spreads it evenly, and the spike comes back in place."""
    made = codec(name)
    x = np.zeros((1, 128), np.float32)
    x[0, at] = -3.5
    decoded = made.decode(made.encode(x), 128)[0]
    assert np.abs(decoded).argmax() == at
    assert decoded[at] < 0
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [1.0, -2.75])
def test_constant(name: str, value: float) -> None:
    """A constant vector keeps its direction on the whole."""
    made = codec(name)
    x = np.full((1, 128), value, np.float32)
    decoded = made.decode(made.encode(x), 128)
    cosine = (x * decoded).sum() / np.linalg.norm(x) / np.linalg.norm(decoded)
    assert cosine > 0.5
    assert np.sign(decoded.mean()) == np.sign(value)


@pytest.mark.parametrize("name", [n for n, spec in TURBO.items() if spec.corrected])
def test_length_is_kept(name: str, gaussian: Make) -> None:
    """The corrected norm makes the decoded vector as long as the input, to fp16."""
    made = codec(name)
    x = gaussian(200, 128) * np.float32(2.0) ** np.arange(-5, 5, 0.05, np.float32)[:, None]
    group = made.alignment
    decoded = made.decode(made.encode(x), 128)
    lengths = [np.linalg.norm(a.reshape(-1, group), axis=1) for a in (x, decoded)]
    assert np.allclose(lengths[0], lengths[1], rtol=2**-10)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [1e-40, np.finfo(np.float32).smallest_subnormal, 1e-38])
def test_denormals(name: str, value: float) -> None:
    """Too small to store is zero or nearly so; never NaN, never large, never a warning."""
    made = codec(name)
    x = np.full((2, 128), value, np.float32)
    decoded = made.decode(made.encode(x), 128)
    assert np.isfinite(decoded).all()
    assert np.abs(decoded).max() <= 1e-6


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_nonfinite_is_refused(name: str, bad: float, dtype: type, gaussian: Make) -> None:
    """One value in one vector: the error names both, by index."""
    x = gaussian(3, 5, 128).astype(dtype)
    x[1, 2, 77] = bad
    with pytest.raises(VectorError) as caught:
        codec(name).encode(x)
    assert (caught.value.vector, caught.value.dim) == (7, 77)
    assert "one of 1 NaN or Inf" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ALL)
def test_many_nonfinite_values_are_counted(name: str, gaussian: Make) -> None:
    """The first place and how many there are."""
    x = gaussian(9, 192)
    x[4, 130:] = np.nan
    x[6] = np.inf
    with pytest.raises(VectorError, match=rf"vector 4 dim 130: nan \(one of {62 + 192} ") as caught:
        codec(name).encode(x)
    assert caught.value.vector == 4


@pytest.mark.parametrize("name", BLOCKED)
@pytest.mark.parametrize("scale", [1e7, 1e19, 1e30, 3e38])
def test_too_long_for_fp16(name: str, scale: float) -> None:
    """Beyond fp16's 65504, and where squares leave float32: the vector is named, nothing wraps."""
    x = np.ones((6, 256), np.float32)
    x[4] *= np.float32(scale)
    with pytest.raises(VectorError) as caught:
        codec(name).encode(x)
    assert caught.value.vector == 4
    assert "fp16" in str(caught.value)


@pytest.mark.parametrize("name", TURBO)
def test_the_largest_length_that_fits(name: str) -> None:
    """Up to the last fp16 number vectors are stored; just beyond they are refused."""
    made = codec(name)
    random = np.random.default_rng(6)
    x = random.standard_normal((1, made.alignment)).astype(np.float32)
    x /= np.linalg.norm(x)
    decoded = made.decode(made.encode(x * np.float32(1e4)))
    # The stored norm is the length over that of the decoded unit vector (or the length itself).
    ratio = made.encode(x * np.float32(1e4))[0, 0, :2].copy().view("<f2")[0].item() / 1e4
    fits, beyond = (x * np.float32(65504 / ratio * f) for f in (0.99, 1.01))
    back = made.decode(made.encode(fits))
    share = np.linalg.norm(back.astype(np.float64)) / np.linalg.norm(fits.astype(np.float64))
    assert share == pytest.approx(np.linalg.norm(decoded.astype(np.float64)) / 1e4, rel=2e-3)
    with pytest.raises(VectorError, match="65504"):
        made.encode(beyond)


def test_plain_halves_overflow() -> None:
    """f16 has no room for 70000, bf16 has; both say what they cannot hold."""
    x = np.zeros((3, 128), np.float32)
    x[2, 5] = 70_000
    with pytest.raises(VectorError, match=r"70000.* is beyond f16") as caught:
        codec("f16").encode(x)
    assert (caught.value.vector, caught.value.dim) == (2, 5)
    assert codec("bf16").decode(codec("bf16").encode(x), 128)[2, 5] == pytest.approx(7e4, rel=0.004)
    x[2, 5] = np.finfo(np.float32).max
    with pytest.raises(VectorError, match="beyond bf16"):
        codec("bf16").encode(x)
    assert np.array_equal(codec("f32").decode(codec("f32").encode(x), 128), x)


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_plain_floats_are_exact(name: str, gaussian: Make) -> None:
    """Values that the type can hold come back bit for bit, and the blocks are those bits."""
    made = codec(name)
    dtype = {"f32": "<f4", "f16": "<f2", "bf16": ml_dtypes.bfloat16}[name]
    x = gaussian(4, 80).astype(dtype)
    blocks = made.encode(x.astype(np.float32))
    assert blocks.tobytes() == x.tobytes()
    assert made.decode(blocks, 80, dtype=np.float32).tobytes() == x.astype(np.float32).tobytes()


@pytest.mark.parametrize("name", FAMILY)
def test_vanished_counts_norms_that_underflow(name: str, gaussian: Make) -> None:
    """A live vector that decodes to zero is reported; zero vectors and small ones are not."""
    made = codec(name)
    dim = made.alignment
    x = gaussian(6, dim)
    x /= np.linalg.norm(x, axis=1)[:, None]
    x[1] *= np.float32(1e-8)  # below half of fp16's smallest, 6e-8
    x[3] = 0
    x[4] *= np.float32(1e-6)  # a fp16 denormal: coarse, but there
    x[5] *= np.float32(1e-12)  # below what counts as zero: no direction is taken from it
    blocks = made.encode(x)
    assert made.vanished(x, blocks) == 2
    decoded = made.decode(blocks)
    assert not decoded[[1, 3, 5]].any()
    assert decoded[[0, 2, 4]].any(axis=1).all()
    assert made.vanished(x[[0, 2, 3, 4]], blocks[[0, 2, 3, 4]]) == 0


@pytest.mark.parametrize("name", FAMILY)
def test_a_vector_vanishes_with_any_of_its_groups(name: str, gaussian: Make) -> None:
    """Each vector counts once; padding and zero groups are nothing that could vanish."""
    made = codec(name)
    x = gaussian(4, 192)
    x[1, 128:] = np.float32(1e-20)
    x[2] = np.float32(1e-20)
    x[3, 128:] = 0
    assert made.vanished(x.reshape(2, 2, 192), made.encode(x.reshape(2, 2, 192))) == 2


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("norm", [np.nan, np.inf, -np.inf, -1.0])
@pytest.mark.parametrize("rotated", [True, False])
def test_stored_norms_that_are_none(name: str, norm: float, rotated: bool, gaussian: Make) -> None:
    """Bytes of something else show as impossible lengths; the error names the vector."""
    made = codec(name)
    blocks = made.encode(gaussian(2, 4, 256))
    blocks[1, 2, -1, :2] = np.array([norm], "<f2").view(np.uint8)
    with pytest.raises(VectorError) as caught:
        made.decode(blocks, 256, domain="rotated" if rotated else "original")
    assert caught.value.vector == 6
    assert "norm" in str(caught.value)


@pytest.mark.parametrize("name", [n for n in BLOCKED if n not in FAMILY])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_stored_scales_that_are_none(name: str, scale: float, gaussian: Make) -> None:
    """The same for ggml blocks, whose scales may be negative but not infinite."""
    made = codec(name)
    blocks = made.encode(gaussian(2, 4, 256))
    blocks[1, 2, 5, :2] = np.array([scale], "<f2").view(np.uint8)
    with pytest.raises(VectorError) as caught:
        made.decode(blocks, 256)
    assert caught.value.vector == 6


@pytest.mark.parametrize("name", ["turbo3-v0", "turbo4@2026-03"])
def test_reserved_field_is_zero(name: str, gaussian: Make) -> None:
    """The second fp16 of the old header is written as 0, as upstream did."""
    assert not codec(name).encode(gaussian(9, 128))[..., 2:4].any()


@pytest.mark.parametrize("name", ["turbo3-b32", "turbo2-b32"])
def test_four_blocks_share_one_norm(name: str, gaussian: Make) -> None:
    """Each 32-value block carries the norm of its whole group."""
    heads = codec(name).encode(gaussian(9, 128))[..., :2]
    assert np.array_equal(heads, np.broadcast_to(heads[:, :1], heads.shape))


def test_b32_holds_the_codes_of_the_plain_layout(gaussian: Make) -> None:
    """The old layout cuts the same codes into smaller blocks."""
    x = gaussian(50, 128)
    for old, plain in (("turbo3-b32", "turbo3@2026-03"), ("turbo2-b32", "turbo2")):
        a, b = codec(old), codec(plain)
        assert np.array_equal(a.codes(a.encode(x)), b.codes(b.encode(x)))
        assert a.decode(a.encode(x)).tobytes() == b.decode(b.encode(x)).tobytes()


def test_v0_is_the_old_codec_without_the_correction(gaussian: Make) -> None:
    """Same codes and table; the stored norm is the raw length."""
    x = gaussian(50, 128)
    v0, old = codec("turbo3-v0"), codec("turbo3@2026-03")
    assert np.array_equal(v0.encode(x)[..., 4:], old.encode(x)[..., 2:])
    stored = v0.encode(x)[:, 0, :2].copy().view("<f2")[:, 0]
    assert np.allclose(stored, np.linalg.norm(x, axis=1), rtol=2**-10)


def test_ties_go_up() -> None:
    """A value on a boundary belongs to the upper level; 0.0 gives the upper middle one."""
    made = codec("turbo3")
    zero = made.encode(np.zeros((1, 128), np.float32))
    assert (made.codes(zero) == 4).all()


def test_all_finite_is_isfinite_for_every_half() -> None:
    """The integer comparison says of all 65,536 patterns what NumPy says, in both 16-bit types."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        values = patterns.view(dtype)
        with np.errstate(invalid="ignore"):  # some patterns are signalling NaNs
            assert [all_finite(v) for v in values[:, None]] == np.isfinite(values).tolist()
    assert all_finite(np.empty(0, np.float16))
    assert not all_finite(np.array([1.0, np.nan], np.float32))
