"""The float16 operations that the packed ones are measured against are right themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tqcli.kernels import attend

SIZES = (0, 1, 7, 8, 9, 16, 17, 63, 64, 65, 130)
HEADS = (1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 17)


@pytest.mark.parametrize("dim", [64, 128, 192, 256])
def test_scores(kernel: str, gaussian: Callable[..., Any], wall: Any, dim: int) -> None:
    """Dot products within 1e-6 of the lengths, and no byte read past the keys."""
    for m, n in zip(HEADS, SIZES, strict=True):
        keys, q = wall(gaussian(n, dim, seed=1).astype(np.float16)), wall(gaussian(m, dim, seed=2))
        exact = q.astype(np.float64) @ keys.T.astype(np.float64)
        lengths = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(keys.astype(float), axis=1)
        assert np.all(np.abs(attend.scores_f16(q, keys) - exact) <= 1e-6 * lengths)


@pytest.mark.parametrize("dim", [64, 128, 192, 256])
def test_weighted_sum(kernel: str, gaussian: Callable[..., Any], wall: Any, dim: int) -> None:
    """Sums within 5e-6 of the sum of magnitudes, and no byte read past the values."""
    for m, n in zip(HEADS, SIZES, strict=True):
        values, w = wall(gaussian(n, dim, seed=3).astype(np.float16)), wall(gaussian(m, n, seed=4))
        wide = values.astype(np.float64)
        allowed = 5e-6 * (np.abs(w).astype(np.float64) @ np.abs(wide))
        error = np.abs(attend.weighted_sum_f16(w, values) - w.astype(np.float64) @ wide)
        assert np.all(error <= allowed)


def test_every_float16(kernel: str) -> None:
    """Each finite float16, subnormal or not, is read as itself."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    keys = np.where(np.isfinite(every), every, np.float16(0)).reshape(-1, 64)
    scores = attend.scores_f16(np.eye(64, dtype=np.float32), keys)
    assert np.array_equal(scores.T, keys.astype(np.float32))


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(kernel: str, gaussian: Callable[..., Any], threads: int) -> None:
    """Any number of threads gives the same numbers."""
    n = 2 * attend.SLAB + 77
    rows, q, w = gaussian(n, 128).astype(np.float16), gaussian(3, 128), gaussian(3, n)
    one = attend.scores_f16(q, rows, threads=1)
    assert np.array_equal(attend.scores_f16(q, rows, threads=threads), one)
    total = attend.weighted_sum_f16(w, rows, threads=1)
    assert np.array_equal(attend.weighted_sum_f16(w, rows, threads=threads), total)
