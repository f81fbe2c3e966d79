"""Scores and sums straight from trellis blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tqcli import codec, kernels
from tqcli.codecs.trellis import SPECS
from tqcli.kernels import attend, trellis_reference

SIZES = (0, 1, 7, 15, 16, 17, 33)


@pytest.fixture(params=SPECS)
def trellis(request: pytest.FixtureRequest) -> Any:
    """The layout of each id."""
    return codec(request.param).layout  # type: ignore[attr-defined]


def _keys(layout: Any, n: int, dim: int) -> tuple[Any, Any]:
    """Blocks of random symbols, and their vectors in float64 in the rotated domain."""
    rng = np.random.default_rng(101)
    blocks = rng.integers(0, 256, (n * (dim // layout.group), layout.group_bytes), np.uint8)
    blocks[:, :2] = rng.uniform(0.1, 30, len(blocks)).astype("<f2").view(np.uint8).reshape(-1, 2)
    vectors = trellis_reference.decode(blocks, layout, rotated=True).astype(np.float64)
    return blocks.reshape(n, -1), vectors.reshape(n, dim)


def _dims(layout: Any) -> tuple[int, ...]:
    return (128, 256) if layout.group == 128 else (64, 128, 192)


def test_scores(kernel: str, trellis: Any, gaussian: Callable[..., Any]) -> None:
    """Within float32 rounding of the exact product, whatever the size, width and m."""
    for dim in _dims(trellis):
        blocks, vectors = _keys(trellis, max(SIZES), dim)
        for m, n in enumerate(SIZES, start=1):
            q = gaussian(m, dim, seed=m)
            scores = attend.scores(q, blocks[:n], trellis)
            lengths = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(vectors[:n], axis=1)
            assert scores.shape == (m, n)
            assert np.all(np.abs(scores - q.astype(np.float64) @ vectors[:n].T) <= 1e-6 * lengths)


def test_integers_are_multiplied_exactly(kernel: str, trellis: Any) -> None:
    """The table is int8 already: nothing is lost but the rounding of scale and norm."""
    rng = np.random.default_rng(103)
    for dim in _dims(trellis):
        blocks, vectors = _keys(trellis, max(SIZES), dim)
        for m, n in enumerate(SIZES, start=1):
            q8 = rng.integers(-127, 128, (m, dim), np.int8)
            scale = rng.uniform(0.5, 2, m).astype(np.float32)
            scores = attend.scores_int8(q8, scale, blocks[:n], trellis)
            queries = q8.astype(np.float64) * scale[:, None]
            lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors[:n], axis=1)
            assert np.all(np.abs(scores - queries @ vectors[:n].T) <= 1e-6 * lengths)


def test_place_and_company_change_nothing(
    native: str, trellis: Any, gaussian: Callable[..., Any]
) -> None:
    """A score depends on its query and key only, up to how a kernel adds."""
    blocks, _ = _keys(trellis, 41, 128)
    q = gaussian(9, 128)
    q8, scale = attend.quantize_query(q)
    together = attend.scores_int8(q8, scale, blocks, trellis)
    floats = attend.scores(q, blocks, trellis)
    for j, i in ((0, 0), (3, 15), (8, 16), (5, 40)):
        one, key = slice(j, j + 1), slice(i, i + 1)
        assert attend.scores(q[one], blocks[key], trellis)[0, 0] == floats[j, i]
        alone = attend.scores_int8(q8[one], scale[one], blocks[key], trellis)
        assert alone[0, 0] == together[j, i]


def test_reads_no_byte_past_the_keys(
    kernel: str, trellis: Any, gaussian: Callable[..., Any], wall: Any
) -> None:
    """The last key may be the last thing a process owns."""
    q = gaussian(3, 128)
    q8, scale = attend.quantize_query(q)
    for n in (1, 16, 17):
        blocks, _ = _keys(trellis, n, 128)
        for number in (1, 3):
            some = slice(0, number)
            walled = attend.scores(wall(q[some]), wall(blocks), trellis)
            assert np.array_equal(walled, attend.scores(q[some], blocks, trellis))
            given = q8[some], scale[some]
            walled = attend.scores_int8(wall(given[0]), wall(given[1]), wall(blocks), trellis)
            assert np.array_equal(walled, attend.scores_int8(*given, blocks, trellis))
        groups = blocks.reshape(-1, trellis.group_bytes)
        assert np.array_equal(
            kernels.decode(wall(groups), trellis), kernels.decode(groups, trellis)
        )


def test_weighted_sum(kernel: str, trellis: Any) -> None:
    """Decoded a slab at a time, added in float64."""
    blocks, vectors = _keys(trellis, 33, 128)
    w = np.random.default_rng(107).random((3, 33), np.float32)
    expected = w.astype(np.float64) @ vectors
    bound = 5e-6 * (w.astype(np.float64) @ np.abs(vectors))
    assert np.all(np.abs(attend.weighted_sum(w, blocks, trellis) - expected) <= bound)


def test_threads(native: str, trellis: Any, gaussian: Callable[..., Any]) -> None:
    """Keys are dealt to threads in runs, and written in place."""
    blocks, _ = _keys(trellis, 5000, 128)
    q = gaussian(2, 128)
    one, three = (attend.scores(q, blocks, trellis, threads=t) for t in (1, 3))
    assert np.array_equal(one, three)
