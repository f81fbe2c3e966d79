"""Percentiles from counts: within 2^-20 of the exact ones, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import tqcli
from tqcli.metrics import Stats
from tqcli.metrics.cosines import CosineCounts

BOUND = 2**-20
PERCENTS = {"cosine_p50": 50, "cosine_p1": 1, "cosine_p01": 0.1}


def of(x: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
    """Measures of vectors."""
    stats = Stats()
    stats.add(x, decoded)
    return stats.measures()  # type: ignore[return-value]


def exact(x: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Cosines, each by itself."""
    a, b = x.astype(np.float64), decoded.astype(np.float64)
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-4, 0.01, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000, 30_000])
def test_percentiles(count: int, noise: float) -> None:
    """Whatever the codec loses, few vectors or many."""
    random = np.random.default_rng([count, 77])
    x = random.standard_normal((count, 16))
    decoded = x + noise * random.standard_normal(x.shape)
    cosines, found = exact(x, decoded), of(x, decoded)
    for name, percent in PERCENTS.items():
        assert abs(found[name] - np.percentile(cosines, percent)) <= BOUND, name
    assert found["cosine_min"] == pytest.approx(cosines.min(), abs=1e-15)
    assert found["cosine_mean"] == pytest.approx(cosines.mean(), rel=1e-14)


@pytest.mark.parametrize("name", ["turbo2", "turbo3", "turbo4", "q4_0", "q8_0", "bf16"])
def test_percentiles_of_real_tensors(name: str, qwen: Path) -> None:
    """Keys and values of a model, through codecs good and bad."""
    codec = tqcli.codec(name)
    for x in load_file(qwen).values():
        if x.ndim == 4:
            x = x.reshape(-1, x.shape[-1])
            decoded = codec.decode(codec.encode(x))
            cosines, found = exact(x, decoded), of(x, decoded)
            for key, percent in PERCENTS.items():
                assert abs(found[key] - np.percentile(cosines, percent)) <= BOUND


def test_memory_is_bounded() -> None:
    """Ten times the vectors take hardly more: what counts is in how many steps they lie."""
    random = np.random.default_rng(31)
    counts = CosineCounts()
    held = []
    for _ in range(2):
        for _ in range(10 if held else 1):
            keys = random.normal(0x3F91_0000, 0x800, 1 << 20).astype(np.uint32)
            counts.add(keys, 0.0, 2.0)
        counts.percentile(50)
        held.append(counts._keys.nbytes + counts._counts.nbytes)
    assert held[1] < 1.3 * held[0] < 400_000
    assert counts._counts.sum() == 11 << 20


def test_order_of_parts_does_not_show() -> None:
    """Counts are whole numbers."""
    random = np.random.default_rng(5)
    parts = []
    for size in (3, 5000, 40):
        part = Stats()
        x = random.standard_normal((size, 8))
        part.add(x, x + 0.1 * random.standard_normal(x.shape), row=size)
        parts.append(part)
    forward = Stats.merged(parts).measures()
    assert Stats.merged(parts[::-1]).measures() == forward
    assert parts[0].merge(parts[1]).merge(parts[2]).measures() == forward
    assert parts[2].merge(parts[1].merge(parts[0])).measures() == forward
