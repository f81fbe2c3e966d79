"""Write what the specification computes to two files, for `driver.c` and `stats.c` elsewhere.

Usage: ``python write_cases.py CASES STATS``. Little-endian, one case after the other::

    i32 bits group block header corrected type vectors floats
    f32 floats: centroids, midpoints, signs before and after the butterflies, scale
    x | blocks | any blocks | their values | their rotated values | their codes

    i32 dim group type vectors
    x | f32 decoded | f32 signs | f64 rows of errors | f64 channels | f64 moments
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from tqcli import rotation
from tqcli.kernels import reference, stats_reference
from tqcli.kernels.layout import TurboLayout

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
SHAPES = ((128, 128), (128, 64), (128, 32), (64, 64), (64, 32))
VECTORS = 150
DIMS = (1, 7, 8, 64, 77, 80, 96, 112, 128, 192, 256, 576)
SPECIALS = (0.0, -0.0, 1e-45, 1e-40, 1e-19, 1e-10, 65504.0, 70000.0, 1e19, 1e30, np.nan, np.inf)


def vectors(rng: np.random.Generator, group: int) -> Any:
    """Vectors of every magnitude; among them special and coarse ones, which have ties."""
    x = rng.standard_normal((VECTORS, group)) * np.exp(rng.uniform(-50, 50, (VECTORS, 1)))
    x[:30] = rng.integers(-2, 3, (30, group))
    for row, value in enumerate(SPECIALS, 30):
        x[row] = value
        x[row + 20, 7 % group] = value
    return x.astype(np.float32)


def tables(rng: np.random.Generator, bits: int, group: int) -> tuple[Any, Any]:
    """A skewed table whose midpoints include zero and the value of a one-hot vector."""
    centroids = np.sort(rng.uniform(-2.5, 2.5, 2**bits)) / np.sqrt(group)
    midpoints = np.sort(rng.uniform(-2.2, 2.2, 2**bits - 1)) / np.sqrt(group)
    midpoints[:2] = 0, rotation.SCALE[group]
    return centroids.astype(np.float32), np.sort(midpoints).astype(np.float32)


def write_case(file: BinaryIO, layout: TurboLayout, kind: int, rng: np.random.Generator) -> None:
    """Inputs and outputs of one layout and float type."""
    dtype = DTYPES[kind]
    with np.errstate(all="ignore"):
        x = vectors(rng, layout.group).astype(dtype)
    blocks = reference.encode(x, layout)
    anything = rng.integers(0, 256, blocks.shape, np.uint8)
    signs, scale = rotation.signs(layout.group), [rotation.SCALE[layout.group]]
    floats = np.concatenate([layout.centroids, layout.midpoints, *signs, scale])
    numbers = [layout.bits, layout.group, layout.block, layout.header, layout.corrected]
    np.array([*numbers, kind, VECTORS, floats.size], "<i4").tofile(file)
    for array in (
        floats.astype(np.float32),
        x,
        blocks,
        anything,
        reference.decode(anything, layout, dtype=dtype),
        reference.decode(anything, layout, rotated=True, dtype=dtype),
        reference.codes(anything, layout),
    ):
        file.write(array.tobytes())


def write_stats(file: BinaryIO, dim: int, kind: int, rng: np.random.Generator) -> None:
    """Inputs and outputs of the statistics of one head size and float type."""
    group = 64 if dim % 128 == 64 else 128
    with np.errstate(all="ignore"):
        x = vectors(rng, dim).astype(DTYPES[kind])
        decoded = x.astype(np.float32) + rng.standard_normal(x.shape).astype(np.float32)
    channels, moments = np.zeros((2, dim)), np.zeros(2)
    rows = stats_reference.errors(x, decoded, channels)
    # What is not finite would hide the sums of the other vectors.
    finite = np.isfinite(x.astype(np.float32)).all(axis=1) & np.isfinite(rows).all(axis=1)
    x, decoded = x[finite], decoded[finite]
    channels[...] = 0
    rows = stats_reference.errors(x, decoded, channels)
    stats_reference.moments(x, group, moments)
    np.array([dim, group, kind, len(x)], "<i4").tofile(file)
    for array in (x, decoded, rotation.signs(group)[0], rows, channels, moments):
        file.write(array.tobytes())


def main() -> None:
    """Every layout, every float type; then heads of many sizes."""
    rng = np.random.default_rng(905)
    with Path(sys.argv[1]).open("wb") as file:
        for bits, (group, block), kind in product((2, 3, 4), SHAPES, range(3)):
            header, corrected = int(rng.choice([2, 4])), bool(rng.integers(2))
            layout = TurboLayout(bits, group, block, header, corrected, *tables(rng, bits, group))
            write_case(file, layout, kind, rng)
    with Path(sys.argv[2]).open("wb") as file:
        for dim, kind in product(DIMS, range(3)):
            write_stats(file, dim, kind, rng)


if __name__ == "__main__":
    main()
