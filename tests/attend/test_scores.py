"""Scores from packed keys against float64 products with the decoded keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tqcli import kernels
from tqcli.kernels import attend
from tqcli.kernels.layout import TurboLayout

BOUND = 1e-6  # of |q| |k|, as documented
# Straddle the 8 and 16 keys that are reduced together, and one tile more.
SIZES = (0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 67)
HEADS = (1, 2, 3, 4, 5, 8, 9)


def _error(scores: Any, q: Any, keys: Any) -> float:
    """Largest error relative to the lengths of query and key."""
    exact = q.astype(np.float64) @ keys.T
    lengths = np.linalg.norm(q.astype(np.float64), axis=1)[:, None] * np.linalg.norm(keys, axis=1)
    return float(np.max(np.abs(scores - exact) / lengths, initial=0.0))


def _dims(layout: TurboLayout) -> tuple[int, ...]:
    return (128, 256, 384) if layout.group == 128 else (64, 128, 192, 256)


def test_every_layout_and_size(
    kernel: str, layout: TurboLayout, helpers: Any, gaussian: Callable[..., Any]
) -> None:
    """The documented bound holds for every layout, number of keys, width and number of queries."""
    for dim in _dims(layout):
        blocks = helpers.blocks(layout, max(SIZES), dim)
        keys = helpers.decoded(blocks, layout, dim)
        for step, n in enumerate(SIZES):
            q = gaussian(HEADS[step % len(HEADS)], dim, seed=n)
            scores = attend.scores(q, blocks[:n], layout)
            assert scores.shape == (len(q), n)
            assert scores.dtype == np.float32
            assert _error(scores, q, keys[:n]) < BOUND


@pytest.mark.parametrize("m", range(1, 18))
def test_numbers_of_queries(
    kernel: str, helpers: Any, gaussian: Callable[..., Any], m: int
) -> None:
    """Queries go in batches; none is lost, doubled or swapped at their edges."""
    layout = helpers.layout(3)
    blocks, q = helpers.blocks(layout, 21, 128), gaussian(m, 128)
    scores = attend.scores(q, blocks, layout)
    assert _error(scores, q, helpers.decoded(blocks, layout, 128)) < BOUND


def test_one_basis_vector_at_a_time(kernel: str, layout: TurboLayout, helpers: Any) -> None:
    """A query of one 1 reads one value of a key: the order of the nibbles is right."""
    blocks = helpers.blocks(layout, 3, 256)
    scores = attend.scores(np.eye(256, dtype=np.float32), blocks, layout)
    keys = helpers.decoded(blocks, layout, 256).astype(np.float32)
    assert np.array_equal(scores.T, keys)


def test_a_score_depends_on_query_and_key_only(
    native: str, layout: TurboLayout, helpers: Any, gaussian: Callable[..., Any]
) -> None:
    """Neither the place of a key, nor other keys, nor other queries change a bit of it."""
    blocks, q = helpers.blocks(layout, 41, 128), gaussian(9, 128)
    together = attend.scores(q, blocks, layout)
    for j, i in ((0, 0), (3, 15), (8, 16), (5, 40)):
        alone = attend.scores(q[j : j + 1], blocks[i : i + 1], layout)
        assert alone[0, 0] == together[j, i]


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_nothing(
    kernel: str, helpers: Any, gaussian: Callable[..., Any], threads: int
) -> None:
    """Keys are dealt to threads; the scores are those of one thread."""
    layout = helpers.layout(3)
    blocks, q = helpers.blocks(layout, 16_411, 128), gaussian(2, 128)
    one = attend.scores(q, blocks, layout, threads=1)
    assert np.array_equal(attend.scores(q, blocks, layout, threads=threads), one)


def test_reads_no_byte_past_the_keys(
    kernel: str, layout: TurboLayout, helpers: Any, gaussian: Callable[..., Any], wall: Any
) -> None:
    """The last key may be the last thing a process owns."""
    for dim in _dims(layout):
        for n in (1, 5, 16, 17):
            blocks = helpers.blocks(layout, n, dim)
            q = gaussian(2, dim)
            walled = attend.scores(wall(q), wall(blocks), layout)
            assert np.array_equal(walled, attend.scores(q, blocks, layout))


@pytest.mark.parametrize("shift", [1, 2, 3, 31, 63])
def test_any_address(kernel: str, helpers: Any, gaussian: Callable[..., Any], shift: int) -> None:
    """Keys and queries may begin at any byte."""
    layout = helpers.layout(3)
    blocks, q = helpers.blocks(layout, 19, 128), gaussian(3, 128)
    expected = attend.scores(q, blocks, layout)
    moved = []
    for array in (q, blocks):
        room = np.zeros(array.nbytes + 64, np.uint8)[shift : shift + array.nbytes]
        moved.append(room.view(array.dtype).reshape(array.shape))
        moved[-1][...] = array
    assert np.array_equal(attend.scores(*moved, layout), expected)


@pytest.mark.parametrize("n", [1, 7, 15, 16, 17, 33])
def test_writes_its_scores_only(
    kernel: str, helpers: Any, gaussian: Callable[..., Any], n: int
) -> None:
    """Not a byte in front of the scores or behind them."""
    layout = helpers.layout(3)
    blocks, q = helpers.blocks(layout, n, 128), gaussian(3, 128)
    fence = np.full(3 * n + 128, -7.5, np.float32)
    out = fence[64 : 64 + 3 * n].reshape(3, n)
    assert attend.scores(q, blocks, layout, out=out) is out
    assert np.array_equal(out, attend.scores(q, blocks, layout))
    assert np.all(np.delete(fence, slice(64, 64 + 3 * n)) == -7.5)


def test_strided_input(kernel: str, helpers: Any, gaussian: Callable[..., Any]) -> None:
    """Views are read as the arrays they show."""
    layout = helpers.layout(3)
    blocks, q = helpers.blocks(layout, 20, 256), gaussian(6, 128)
    keys, queries = blocks[::2, :50], q[::-2]
    expected = attend.scores(queries.copy(), keys.copy(), layout)
    assert np.array_equal(attend.scores(queries, keys, layout), expected)


@pytest.mark.parametrize("norm", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("block", [32, 128])
def test_a_bad_norm_stays_with_its_key(
    kernel: str, helpers: Any, gaussian: Callable[..., Any], norm: float, block: int
) -> None:
    """A key with a non-finite norm has a non-finite score; its neighbours keep theirs."""
    layout = helpers.layout(3, 128, block)
    blocks, q = helpers.blocks(layout, 18, 128), gaussian(2, 128)
    expected = attend.scores(q, blocks, layout)
    blocks[5, :2] = np.array([norm], "<f2").view(np.uint8)
    with np.errstate(all="ignore"):
        scores = attend.scores(q, blocks, layout)
    assert not np.isfinite(scores[:, 5]).any()
    assert np.allclose(np.delete(scores, 5, 1), np.delete(expected, 5, 1), rtol=0, atol=1e-4)


def test_norms_from_zero_to_the_largest(
    kernel: str, helpers: Any, gaussian: Callable[..., Any]
) -> None:
    """Zero, subnormal, negative and largest fp16 norms scale a key as they do in decoding."""
    layout = helpers.layout(3)
    norms = np.array([0.0, -0.0, 6e-8, 5.9e-5, -3.5, 65504.0, 1.0], "<f2")
    blocks, q = helpers.blocks(layout, len(norms), 128), gaussian(2, 128)
    blocks[:, :2] = norms.view(np.uint8).reshape(-1, 2)
    exact = q.astype(np.float64) @ helpers.decoded(blocks, layout, 128).T
    assert np.allclose(attend.scores(q, blocks, layout), exact, rtol=1e-4, atol=1e-12)


def test_kernels_are_the_ones_named(helpers: Any, gaussian: Callable[..., Any]) -> None:
    """All kernels agree to the bound that each of them keeps."""
    layout = helpers.layout(3)
    blocks, q = helpers.blocks(layout, 100, 128), gaussian(4, 128)
    results = []
    for name in kernels.available():
        with kernels.use(name):
            results.append(attend.scores(q, blocks, layout))
    lengths = np.linalg.norm(helpers.decoded(blocks, layout, 128), axis=1)
    for result in results[1:]:
        assert np.all(np.abs(result - results[0]) < 2 * BOUND * 12 * lengths)
