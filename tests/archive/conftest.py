"""A small model's cache, made up: layers that follow from each other, with means of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tqcli.archive.cache import Encoder, decode_chunk, unpack_choice
from tqcli.archive.code import Code
from tqcli.archive.derive import derive
from tqcli.archive.moments import Moments
from tqcli.archive.weights import Weights, weights

LAYERS, HEADS, K_DIM, V_DIM = 4, 2, 8, 6
WIDTH = HEADS * (K_DIM + V_DIM)


class Cache:
    """K before RoPE and V of some tokens; vectors of a layer are K, then V, head after head.

    Parameters
    ----------
    tokens : int
    seed : int
        Of the tokens; all caches share the relations between layers, which `domain` turns.
    domain : int
    scale : float
    """

    def __init__(self, tokens: int, seed: int, domain: int = 0, scale: float = 1.0) -> None:
        shared, own = np.random.default_rng(70 + domain), np.random.default_rng(seed)
        stream = own.laplace(size=(tokens, 10)) * np.exp(-np.arange(10) / 3)
        self.vectors = []
        for _ in range(LAYERS):
            stream = stream + 0.1 * own.standard_normal(stream.shape)
            spread = shared.standard_normal((10, WIDTH)) * np.exp(shared.standard_normal(WIDTH))
            mean = 3 * shared.standard_normal(WIDTH)
            noise = 0.02 * own.standard_normal((tokens, WIDTH))
            self.vectors.append(scale * (stream @ spread + noise) + mean)
        self.tokens = tokens

    def read(self, layer: int, start: int, stop: int) -> Any:
        """As :data:`tqcli.archive.cache.Read` says."""
        x = self.vectors[layer][start:stop].astype(np.float32)
        k, v = np.split(x, [HEADS * K_DIM], axis=1)
        shape = (stop - start, HEADS, -1)
        return k.reshape(shape).transpose(1, 0, 2), v.reshape(shape).transpose(1, 0, 2)

    def moments(self, reach: int) -> Moments:
        """Of all tokens."""
        moments = Moments([WIDTH] * LAYERS, reach)
        moments.add(self.vectors)
        return moments


def make_weights(seed: int) -> list[Weights]:
    """Weights as queries and an output projection would give them."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(LAYERS):
        power = np.tile(rng.random((HEADS, K_DIM // 2)) ** 3, 2)
        gram = rng.standard_normal((HEADS, V_DIM, V_DIM))
        gram = gram @ gram.transpose(0, 2, 1)
        out.append(weights(power, rng.random(HEADS), rng.random(HEADS), gram))
    return out


def make_code(step: float = 0.1, group: int = 2, back: int = 1, seed: int = 1) -> Code:
    """Side data derived from a cache of 3,000 tokens."""
    moments = Cache(3000, seed=100 + seed).moments((back + 1) * group - 1)
    return derive(moments, make_weights(seed), step, group=group, back=back)


def round_trip(code: Code, cache: Any, start: int = 0) -> tuple[list[Any], int]:
    """What a cache decodes to, as vectors by layer, and the bytes of all stretches."""
    found: list[Any] = [[] for _ in code.layers]
    nbytes = 0
    for stretch in Encoder(code).stretches(cache.read, start, cache.tokens):
        nbytes += stretch.nbytes
        choice = unpack_choice(stretch.tables, code.expected)
        for part in stretch.chunks:
            for layer, k, v in decode_chunk(code, part, choice):
                found[layer].append(join(k, v))
    return [np.concatenate(parts) for parts in found], nbytes


def join(k: Any, v: Any) -> Any:
    """Vectors ``(tokens, values)`` of K and V ``(heads, tokens, dim)``."""
    parts = (x.transpose(1, 0, 2).reshape(x.shape[1], -1) for x in (k, v))
    return np.concatenate(list(parts), axis=1)


class Helpers:
    """What tests of this folder share."""

    Cache = Cache
    weights = staticmethod(make_weights)
    code = staticmethod(make_code)
    round_trip = staticmethod(round_trip)
    join = staticmethod(join)
    layers, heads, k_dim, v_dim, width = LAYERS, HEADS, K_DIM, V_DIM, WIDTH


@pytest.fixture(scope="session")
def helpers() -> type[Helpers]:
    """The functions above, since test folders are no packages."""
    return Helpers


@pytest.fixture(scope="session")
def code() -> Code:
    """Groups of two layers, each predicted from the one before."""
    return make_code()
