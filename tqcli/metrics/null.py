"""The null model: what a codec does to vectors that hold no structure at all.

Figures that agree with it say that the implementation is right, and nothing about the model;
figures that differ say that the tensor is not what the codebook was made for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from tqcli.codecs import Codec
from tqcli.metrics.stats import Stats

# Not a seed that any rotation is made from: a shared seed makes data and rotation conspire.
SEED = 20_260_331
VECTORS = 16_384
_CHUNK = 4096


@dataclass(frozen=True)
class NullModel:
    """Figures for i.i.d. Gaussian vectors of one head_dim."""

    measures: dict[str, float | int | None]
    cosine_variance: float
    vectors: int


def null_stats(codec: Codec, head_dim: int, vectors: int = VECTORS, seed: int = SEED) -> Stats:
    """Statistics of `vectors` standard normal vectors through `codec`."""
    stats = Stats()
    random = np.random.default_rng(seed)
    for start in range(0, vectors, _CHUNK):
        count = min(_CHUNK, vectors - start)
        x = random.standard_normal((count, head_dim), np.float32)
        stats.add(x, codec.decode(codec.encode(x), head_dim), token=start)
    return stats


_cache: dict[str, NullModel] = {}


def null_model(codec: Codec, head_dim: int) -> NullModel:
    """The null model of a codec, computed once in a process."""
    key = f"{codec.config()} {head_dim}"
    if key not in _cache:
        stats = null_stats(codec, head_dim)
        _cache[key] = NullModel(stats.measures(), stats.cosine_moments()[2], VECTORS)
    return _cache[key]


def z_score(stats: Stats, null: NullModel) -> float | None:
    """Difference of the mean cosine from the null model's, in its standard errors."""
    expected = null.measures["cosine_mean"]
    if stats.vectors < 2 or expected is None:
        return None
    count, mean, variance = stats.cosine_moments()
    spread = variance / count + null.cosine_variance / null.vectors
    return (mean - expected) / sqrt(spread) if spread > 0 else None
