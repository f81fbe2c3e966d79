"""Weighted sums of packed values against float64 sums of the decoded ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tqcli.kernels import attend
from tqcli.kernels.layout import TurboLayout

BOUND = 5e-6  # of sum |w| |v|, as documented
SIZES = (0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 67, 129)
HEADS = (1, 2, 3, 4, 5, 7, 8, 9)


def _check(total: Any, w: Any, values: Any) -> None:
    exact = w.astype(np.float64) @ values
    allowed = BOUND * (np.abs(w).astype(np.float64) @ np.abs(values))
    assert total.shape == exact.shape
    assert total.dtype == np.float32
    assert np.all(np.abs(total - exact) <= allowed)


def test_every_layout_and_size(
    kernel: str, layout: TurboLayout, helpers: Any, gaussian: Callable[..., Any]
) -> None:
    """The documented bound holds for every layout, number of values, width and number of rows."""
    for dim in (128, 256) if layout.group == 128 else (64, 128, 192):
        blocks = helpers.blocks(layout, max(SIZES), dim)
        values = helpers.decoded(blocks, layout, dim)
        for step, n in enumerate(SIZES):
            w = gaussian(HEADS[step % len(HEADS)], n, seed=n)
            _check(attend.weighted_sum(w, blocks[:n], layout), w, values[:n])


def test_one_vector_at_a_time(kernel: str, layout: TurboLayout, helpers: Any) -> None:
    """A weight of 1 gives the decoded vector itself: every value stands at its place."""
    blocks = helpers.blocks(layout, 9, 256)
    total = attend.weighted_sum(np.eye(9, dtype=np.float32), blocks, layout)
    assert np.allclose(total, helpers.decoded(blocks, layout, 256), rtol=2e-7, atol=0)


def test_long_sums_keep_the_bound(kernel: str, helpers: Any) -> None:
    """Weights of one sign over several slabs, where a plain float32 sum would drift."""
    layout = helpers.layout(3)
    n = 3 * attend.SLAB + 17
    blocks = np.tile(helpers.blocks(layout, 1, 128), (n, 1))
    w = np.full((1, n), 1 / 3, np.float32)
    _check(attend.weighted_sum(w, blocks, layout), w, helpers.decoded(blocks, layout, 128))


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_nothing(
    kernel: str, helpers: Any, gaussian: Callable[..., Any], threads: int
) -> None:
    """Slabs are dealt to threads and added in order."""
    layout, n = helpers.layout(3), 4 * attend.SLAB + 5
    blocks, w = helpers.blocks(layout, n, 128), gaussian(3, n)
    one = attend.weighted_sum(w, blocks, layout, threads=1)
    assert np.array_equal(attend.weighted_sum(w, blocks, layout, threads=threads), one)


def test_rows_do_not_touch_each_other(
    native: str, layout: TurboLayout, helpers: Any, gaussian: Callable[..., Any]
) -> None:
    """A row of weights gives the same sum alone and among others."""
    blocks, w = helpers.blocks(layout, 70, 128), gaussian(9, 70)
    together = attend.weighted_sum(w, blocks, layout)
    for j in range(9):
        assert np.array_equal(attend.weighted_sum(w[j : j + 1], blocks, layout)[0], together[j])


def test_reads_no_byte_past_the_values(
    kernel: str, layout: TurboLayout, helpers: Any, gaussian: Callable[..., Any], wall: Any
) -> None:
    """The last value may be the last thing a process owns, and so may its weight."""
    for dim in (128, 256) if layout.group == 128 else (64, 192):
        for n in (1, 5, 64, 67):
            blocks, w = helpers.blocks(layout, n, dim), gaussian(2, n)
            walled = attend.weighted_sum(wall(w), wall(blocks), layout)
            assert np.array_equal(walled, attend.weighted_sum(w, blocks, layout))


@pytest.mark.parametrize("shift", [1, 2, 3, 31, 63])
def test_any_address(kernel: str, helpers: Any, gaussian: Callable[..., Any], shift: int) -> None:
    """Values and weights may begin at any byte."""
    layout = helpers.layout(3)
    blocks, w = helpers.blocks(layout, 19, 128), gaussian(3, 19)
    expected = attend.weighted_sum(w, blocks, layout)
    moved = []
    for array in (w, blocks):
        room = np.zeros(array.nbytes + 64, np.uint8)[shift : shift + array.nbytes]
        moved.append(room.view(array.dtype).reshape(array.shape))
        moved[-1][...] = array
    assert np.array_equal(attend.weighted_sum(*moved, layout), expected)


def test_strided_weights(kernel: str, helpers: Any, gaussian: Callable[..., Any]) -> None:
    """Views are read as the arrays they show."""
    layout = helpers.layout(3)
    blocks, w = helpers.blocks(layout, 20, 128), gaussian(20, 6)
    expected = attend.weighted_sum(w.T.copy(), blocks, layout)
    assert np.array_equal(attend.weighted_sum(w.T, blocks, layout), expected)


@pytest.mark.parametrize("m", [1, 4])
def test_a_bad_norm_shows(kernel: str, helpers: Any, m: int) -> None:
    """A non-finite norm under a weight makes the sum non-finite, never a plausible number."""
    layout = helpers.layout(3)
    blocks = helpers.blocks(layout, 70, 128)
    blocks[33, :2] = np.array([np.nan], "<f2").view(np.uint8)
    with np.errstate(all="ignore"):
        total = attend.weighted_sum(np.ones((m, 70), np.float32), blocks, layout)
    assert np.isnan(total).all()
