"""int8 queries: exact integers, and the error that rounding adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tqcli import codec, rotation
from tqcli.kernels import attend, attend_reference
from tqcli.kernels.layout import TurboLayout

SIZES = (0, 1, 7, 8, 9, 15, 16, 17, 33, 64, 67)


def _quantized(rng: np.random.Generator, m: int, dim: int) -> tuple[Any, Any]:
    q8 = rng.integers(-127, 128, (m, dim), np.int8)
    return q8, rng.uniform(0.5, 2, m).astype(np.float32)


def _exact(q8: Any, scale: Any, blocks: Any, layout: TurboLayout, helpers: Any) -> tuple[Any, Any]:
    """The scores of these integers in float64, and the lengths of query and key."""
    table, unit = attend_reference.int8_centroids(layout)
    integers = replace(layout, centroids=table.astype(np.float32))
    keys = helpers.decoded(blocks, integers, q8.shape[1]) * float(unit)
    queries = q8.astype(np.float64) * scale[:, None]
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(keys, axis=1)
    return queries @ keys.T, lengths


def test_integers_are_multiplied_exactly(kernel: str, layout: TurboLayout, helpers: Any) -> None:
    """Up to float32 rounding of norm and scale, whatever the layout, size, width and m."""
    rng = np.random.default_rng(3)
    for dim in (128, 256) if layout.group == 128 else (64, 128, 192):
        blocks = helpers.blocks(layout, max(SIZES), dim)
        for m, n in enumerate(SIZES, start=1):
            q8, scale = _quantized(rng, m, dim)
            scores = attend.scores_int8(q8, scale, blocks[:n], layout)
            exact, lengths = _exact(q8, scale, blocks[:n], layout, helpers)
            assert scores.shape == (m, n)
            assert np.all(np.abs(scores - exact) <= 1e-6 * lengths)


def test_extreme_integers_do_not_saturate(kernel: str, layout: TurboLayout, helpers: Any) -> None:
    """All products of one sign at 127 * 127: no sum of a kernel overflows its type."""
    extreme = replace(layout, centroids=np.full(2**layout.bits, 0.125, np.float32))
    blocks = helpers.blocks(layout, 17, 128)
    for sign in (1, -1):
        for table in (extreme, replace(extreme, centroids=-extreme.centroids)):
            q8 = np.full((2, 128), 127 * sign, np.int8)
            scale = np.ones(2, np.float32)
            scores = attend.scores_int8(q8, scale, blocks, table)
            exact, _ = _exact(q8, scale, blocks, table, helpers)
            assert np.allclose(scores, exact, rtol=1e-6)


def test_place_and_company_change_nothing(native: str, layout: TurboLayout, helpers: Any) -> None:
    """A score depends on its query and key only."""
    blocks = helpers.blocks(layout, 41, 128)
    q8, scale = _quantized(np.random.default_rng(5), 9, 128)
    together = attend.scores_int8(q8, scale, blocks, layout)
    for j, i in ((0, 0), (3, 15), (8, 16), (5, 40)):
        one = slice(j, j + 1)
        alone = attend.scores_int8(q8[one], scale[one], blocks[i : i + 1], layout)
        assert alone[0, 0] == together[j, i]


def test_reads_no_byte_past_the_keys(
    kernel: str, layout: TurboLayout, helpers: Any, wall: Any
) -> None:
    """The last key may be the last thing a process owns."""
    q8, scale = _quantized(np.random.default_rng(5), 3, 128)
    for n in (1, 16, 17):
        blocks = helpers.blocks(layout, n, 128)
        walled = attend.scores_int8(wall(q8), wall(scale), wall(blocks), layout)
        assert np.array_equal(walled, attend.scores_int8(q8, scale, blocks, layout))


def test_quantize_query(gaussian: Callable[..., Any]) -> None:
    """Rounded to the nearest step, symmetric, and the largest value is 127."""
    q = gaussian(5, 128)
    q[3] = 0
    q8, scale = attend.quantize_query(q)
    assert q8.dtype == np.int8
    assert scale.dtype == np.float32
    assert np.all(np.abs(q8.astype(int)).max(axis=1)[[0, 1, 2, 4]] == 127)
    assert np.all(np.abs(q - q8 * scale[:, None]) <= scale[:, None] * 0.500001)
    assert scale[3] == 0
    assert not q8[3].any()


@pytest.mark.parametrize("value", [1e-45, 1e-38, 3e38])
def test_quantize_query_of_any_size(value: float) -> None:
    """The smallest and largest floats are no trouble; a scale that vanishes gives zeros."""
    q8, scale = attend.quantize_query(np.array([[value, -value, 0, 0]], np.float32))
    assert np.isfinite(scale).all()
    assert q8.tolist() == ([[127, -127, 0, 0]] if scale[0] > 0 else [[0, 0, 0, 0]])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_int8_centroids(bits: int) -> None:
    """Each within half a unit of its centroid, closer on the whole than with 127 units."""
    layout = codec(f"turbo{bits}").layout
    table, unit = attend_reference.int8_centroids(layout)
    naive = np.abs(layout.centroids).max() / 127
    error = np.square(table * unit - layout.centroids).sum()
    assert np.all(np.abs(table * unit - layout.centroids) <= unit / 2)
    assert error <= np.square(np.rint(layout.centroids / naive) * naive - layout.centroids).sum()
    assert np.sqrt(error / np.square(layout.centroids).sum()) < 0.004


def test_int8_centroids_of_zeros(helpers: Any) -> None:
    """A table of zeros has no largest centroid and stays zero."""
    layout = replace(helpers.layout(2), centroids=np.zeros(4, np.float32))
    table, unit = attend_reference.int8_centroids(layout)
    assert not table.any()
    assert unit == 0


def _rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.mark.parametrize(("name", "own"), [("turbo2", 0.34), ("turbo3", 0.18), ("turbo4", 0.10)])
def test_added_error_on_gaussian_vectors(
    gaussian: Callable[..., Any], name: str, own: float
) -> None:
    """The documented 0.7 % (turbo4: 0.9 %), far below the error of the keys themselves."""
    made = codec(name)
    k, q = gaussian(4000, 128, seed=1), rotation.rotate(gaussian(32, 128, seed=2))
    blocks = made.encode(k).reshape(len(k), -1)
    scores = attend.scores(q, blocks, made.layout)
    added = attend.scores_int8(*attend.quantize_query(q), blocks, made.layout) - scores
    exact = q.astype(np.float64) @ rotation.rotate(k).T.astype(np.float64)
    assert 0.005 < _rms(added) / _rms(exact) < (0.0095 if name == "turbo4" else 0.0075)
    assert _rms(scores - exact) / _rms(exact) == pytest.approx(own, rel=0.1)


def test_added_error_on_real_tensors(qwen: Path) -> None:
    """On queries and keys of a model it stays a small part of what turbo3 does to the scores."""
    made, tensors = codec("turbo3"), load_file(qwen)
    layers = sorted(name[:-2] for name in tensors if name.endswith(".k"))
    assert layers
    for layer in layers:
        k = tensors[f"{layer}.k"].astype(np.float32)[0]  # (num_kv_heads, seq_len, 128)
        q = tensors[f"{layer}.q"].astype(np.float32)[0]
        per_head = len(q) // len(k)
        for head, keys in enumerate(k):
            queries = rotation.rotate(q[head * per_head, ::8].copy())
            blocks = made.encode(keys).reshape(len(keys), -1)
            scores = attend.scores(queries, blocks, made.layout)
            added = attend.scores_int8(*attend.quantize_query(queries), blocks, made.layout)
            added = added - scores
            exact = queries.astype(np.float64) @ rotation.rotate(keys).T.astype(np.float64)
            # A constant on all scores of a query changes no softmax.
            own = scores - exact
            own -= own.mean(axis=1, keepdims=True)
            added -= added.mean(axis=1, keepdims=True)
            assert _rms(added) < 0.1 * _rms(own)
