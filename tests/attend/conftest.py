"""Layouts and packed vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tqcli import kernels
from tqcli.kernels import reference
from tqcli.kernels.layout import TurboLayout

# (group, block) of every legal layout.
SHAPES = ((128, 128), (128, 64), (128, 32), (64, 64), (64, 32))
LAYOUTS = [
    pytest.param((bits, group, block, header), id=f"{bits}bit-g{group}-b{block}-h{header}")
    for bits in (2, 3, 4)
    for group, block in SHAPES
    for header in (2, 4)
]


def make_layout(bits: int = 3, group: int = 128, block: int = 128, header: int = 2) -> TurboLayout:
    """A layout with a table of no symmetry, so that a swapped level cannot hide."""
    levels = np.random.default_rng(bits).standard_normal(2**bits) / np.sqrt(group)
    table = np.sort(levels).astype(np.float32)
    return TurboLayout(
        bits, group, min(block, group), header, True, table, (table[1:] + table[:-1]) / 2
    )


def make_blocks(layout: TurboLayout, n: int, dim: int, seed: int = 11) -> Any:
    """Packed vectors of random codes, uint8 ``(n, bytes)``; every block has a norm of its own."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (n * (dim // layout.block), layout.block_bytes), np.uint8)
    norms = rng.uniform(0.1, 30, len(blocks)).astype("<f2")
    blocks[:, :2] = norms.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(n, dim // layout.group * layout.group_bytes)


def decoded(blocks: Any, layout: TurboLayout, dim: int) -> Any:
    """The vectors in the rotated domain, float64 ``(n, dim)``."""
    groups = blocks.reshape(-1, layout.group_bytes)
    values = reference.decode(groups, layout, rotated=True)
    return values.reshape(len(blocks), dim).astype(np.float64)


class Helpers:
    """What tests of this folder share."""

    layout = staticmethod(make_layout)
    blocks = staticmethod(make_blocks)
    decoded = staticmethod(decoded)
    shapes = SHAPES


@pytest.fixture(scope="session")
def helpers() -> type[Helpers]:
    """The functions above, since test folders are no packages."""
    return Helpers


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> TurboLayout:
    """Every legal layout."""
    return make_layout(*request.param)


@pytest.fixture(params=kernels.available()[:-1])
def native(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each compiled kernel of this machine, forced."""
    with kernels.use(request.param):
        yield request.param
