"""The signed Walsh-Hadamard rotation: the right signs, orthonormal, inverted, and its halves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.linalg import hadamard as hadamard_matrix

import tqcli
from tqcli import rotation

Make = Callable[..., np.ndarray]


@pytest.mark.parametrize(("which", "seed"), [("main", 42), ("qjl", 1042)])
def test_signs_are_the_draws_of_the_seed(which: rotation.Signs, seed: int) -> None:
    """The stored bits are upstream's generator: first and second call."""
    random = np.random.default_rng(seed)
    for sign in rotation.signs(128, which):
        assert np.array_equal(sign, random.choice([-1.0, 1.0], 128))


@pytest.mark.parametrize("which", ["main", "qjl"])
def test_a_group_of_64_uses_the_first_64(which: rotation.Signs) -> None:
    """One pair of sign strings serves both group sizes."""
    for short, full in zip(rotation.signs(64, which), rotation.signs(128, which), strict=True):
        assert np.array_equal(short, full[:64])


@pytest.mark.parametrize("which", ["main", "qjl"])
@pytest.mark.parametrize("group", [64, 128])
def test_matrix(group: int, which: rotation.Signs) -> None:
    """The rotation is D2 H D1 / sqrt(g) and nothing else, and so it is orthonormal."""
    before, after = rotation.signs(group, which)
    expected = after[:, None] * hadamard_matrix(group) * before / np.sqrt(group)
    got = rotation.rotate(np.eye(group, dtype=np.float32), group, which).T
    assert np.allclose(got, expected, rtol=1e-6, atol=0)
    back = rotation.unrotate(np.eye(group, dtype=np.float32), group, which).T
    assert np.allclose(back, expected.T, rtol=1e-6, atol=0)
    assert np.allclose(got.astype(np.float64) @ got.T, np.eye(group), atol=1e-6)


@pytest.mark.parametrize("group", [64, 128])
def test_inverse(group: int, gaussian: Make) -> None:
    """Unrotating gives the vector back to float32 rounding, and lengths never change."""
    x = gaussian(100, 2 * group)
    y = rotation.rotate(x, group)
    assert np.allclose(rotation.unrotate(y, group), x, atol=1e-5)
    assert np.allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1), rtol=1e-6)
    assert not np.allclose(y, x, atol=0.1)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_plain_hadamard(size: int, gaussian: Make) -> None:
    """llama.cpp's transform has no signs and is its own inverse."""
    x = gaussian(10, 2 * size)
    y = rotation.hadamard(x, size)
    matrix = hadamard_matrix(size) / np.sqrt(size)
    expected = (x.reshape(-1, size).astype(np.float64) @ matrix).reshape(x.shape)
    assert np.allclose(y, expected, atol=1e-5)
    assert np.allclose(rotation.hadamard(y, size), x, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_head_of_64_padded_is_a_group_of_64_told_twice(bits: int, gaussian: Make) -> None:
    """The law behind the g64 ids.

    H128 [x; 0] is [H64 x; H64 x]: the padded vector holds the 64 codes of the short group twice,
    mirrored where the two halves of the second signs differ, and the same norm.
    """
    x = gaussian(2000, 64)
    padded, short = tqcli.codec(f"turbo{bits}"), tqcli.codec(f"turbo{bits}-g64")
    wide, narrow = padded.encode(x), short.encode(x)
    codes, own = padded.codes(wide), short.codes(narrow)
    _, after = rotation.signs(128)
    flipped = after[:64] != after[64:]
    top = 2**bits - 1
    twice = np.concatenate([own, np.where(flipped, top - own, own)], axis=1)
    # 1/8 and 1/sqrt(128) round differently, so a value beside a boundary may fall across it.
    differ = (codes != twice).any(axis=1)
    assert differ.mean() < 1e-3
    same = ~differ
    norm_wide, norm_narrow = (b[:, 0, :2].copy().view("<f2")[:, 0] for b in (wide, narrow))
    assert np.allclose(norm_wide[same], norm_narrow[same], rtol=2**-10)
    # fp16 norms may round apart by one step; the vectors differ by no more than that.
    a, b = padded.decode(wide[same]), short.decode(narrow[same], 64)
    assert np.allclose(a[:, :64], b, rtol=2**-10, atol=1e-6)
    assert np.abs(a[:, 64:]).max() < 1e-5
    equal = norm_wide[same] == norm_narrow[same]
    assert equal.mean() > 0.99
    assert np.allclose(a[equal, :64], b[equal], rtol=0, atol=1e-5)
