"""The upstream C reference's own bytes: what every kernel must write, and how it must read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import tqcli

IDS = (
    "turbo2",
    "turbo2-b32",
    "turbo3",
    "turbo3-b32",
    "turbo3@2026-03",
    "turbo4",
    "turbo4@2026-03",
)
VECTORS = 468


@pytest.fixture(scope="module")
def golden(fixtures: Path) -> dict[str, np.ndarray]:
    """Inputs ``x``, and for each id the reference's blocks and its rotated decode."""
    return load_file(fixtures / "golden" / "turbo_reference.safetensors")


def test_every_id_of_the_file_is_tested(golden: dict[str, np.ndarray]) -> None:
    """A format that joins the file may not be forgotten here."""
    assert {name.removesuffix(".blocks") for name in golden if name.endswith(".blocks")} == set(IDS)
    assert golden["x"].shape == (VECTORS, 128)


@pytest.mark.parametrize("name", IDS)
def test_encode(name: str, golden: dict[str, np.ndarray], kernel: str) -> None:
    """The promise of the whole project: byte for byte what engines store."""
    blocks = tqcli.codec(name).encode(golden["x"])
    expected = golden[f"{name}.blocks"].reshape(blocks.shape)
    assert blocks.shape[0] == VECTORS
    assert np.array_equal(blocks, expected)


@pytest.mark.parametrize("name", IDS)
def test_rotated_decode(name: str, golden: dict[str, np.ndarray], kernel: str) -> None:
    """What attention kernels read, bit for bit: signs of zeros included."""
    codec = tqcli.codec(name)
    blocks = golden[f"{name}.blocks"].reshape(VECTORS, *codec.blocks_shape(128))
    decoded = codec.decode(blocks, domain="rotated")
    assert decoded.tobytes() == golden[f"{name}.rotated"].tobytes()


def unrotate(z: np.ndarray) -> np.ndarray:
    """The inverse rotation as the format page states it, in float32, from the seed itself."""
    random = np.random.default_rng(42)
    s1, s2 = (random.choice([-1.0, 1.0], 128).astype(np.float32) for _ in range(2))
    z = z * s2
    for stride in (1, 2, 4, 8, 16, 32, 64):
        low = np.array([i for i in range(128) if not i & stride])
        a, b = z[:, low].copy(), z[:, low + stride].copy()
        z[:, low], z[:, low + stride] = a + b, a - b
    return z * (np.float32(0.08838834764831845) * s1)


@pytest.mark.parametrize("name", IDS)
def test_original_decode(name: str, golden: dict[str, np.ndarray], kernel: str) -> None:
    """Vectors come back through the inverse rotation, operation by operation, bit for bit."""
    codec = tqcli.codec(name)
    blocks = golden[f"{name}.blocks"].reshape(VECTORS, *codec.blocks_shape(128))
    expected = unrotate(golden[f"{name}.rotated"])
    assert codec.decode(blocks, 128).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", IDS)
def test_codes(name: str, golden: dict[str, np.ndarray], kernel: str) -> None:
    """Codes are the levels that the decoded values stand on."""
    codec = tqcli.codec(name)
    blocks = golden[f"{name}.blocks"].reshape(VECTORS, *codec.blocks_shape(128))
    bits = {"2": 2, "3": 3, "4": 4}[name[5]]
    codes = codec.codes(blocks)
    assert codes.max() == 2**bits - 1
    # Within a vector of one norm, equal codes decode to equal values and larger to larger.
    rotated = golden[f"{name}.rotated"]
    order = np.argsort(codes, axis=1, kind="stable")
    ascending = np.take_along_axis(rotated, order, axis=1)
    assert np.all(np.diff(ascending, axis=1) >= 0)
    sorted_codes = np.take_along_axis(codes, order, axis=1)
    assert np.all((np.diff(ascending, axis=1) == 0) >= (np.diff(sorted_codes, axis=1) == 0))
