"""What a unit of squared error in K or in V costs attention's output, per KV head of a layer.

With ``p`` the attention weights of a query ``q`` and ``o`` its output, an error ``e`` in key ``i``
moves the output by ``p_i <q, e> (v_i - o)`` to first order, and an error in value ``i`` by
``p_i e``. Over queries, for errors alike in all keys, and with the output projection ``W``::

    key   = E[sum_i p_i^2 |(v_i - o) W|^2] / (d * E|o W|^2)      times the power of q
    value = E[sum_i p_i^2]                 / E|o W|^2            times the Gram matrix of W

summed over the query heads of a KV head (key) and their mean (value); ``E|o W|^2`` is summed over
all query heads of the layer, each by itself. The first keys of a sequence, which stay float, and
the first queries, which see little else, are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.metrics.attention import Scoring
from tqcli.metrics.causal import Ints, Span, tiles

FIRST_QUERY = 64
TILE = 1 << 18  # pairs of a query and a key of one tile

F64 = NDArray[np.float64]


class Sensitivity:
    """Sums over the queries of one layer; they merge by addition.

    Parameters
    ----------
    num_kv_heads, head_dim : int
        `head_dim` is that of Q and K.
    """

    def __init__(self, num_kv_heads: int, head_dim: int) -> None:
        self.queries = 0  # positions, not counted again for each head
        self.power = np.zeros((num_kv_heads, head_dim))
        self.key = np.zeros(num_kv_heads)
        self.value = np.zeros(num_kv_heads)
        self.output = 0.0

    def add(
        self,
        head: int,
        queries: NDArray[Any],
        keys: NDArray[Any],
        values: NDArray[Any],
        projection: F64 | None,
        span: Span,
        positions: Ints,
        scoring: Scoring,
    ) -> None:
        """Add the queries that share one KV head.

        Parameters
        ----------
        head : int
            KV head. Positions are counted with head 0.
        queries : array, shape (heads, positions, head_dim)
            After RoPE.
        keys, values : arrays, shape (tokens, dim)
            Of the whole sequence.
        projection : float64 array, shape (v_dim, any), or None
            ``projection @ projection.T`` is the Gram matrix of the output projection, summed over
            the query heads of the group; None: the identity for each.
        span : Span
        positions : int array, shape (positions,)
            Ascending positions of the queries in the sequence.
        scoring : Scoring
        """
        heads = len(queries)
        v = values.astype(np.float64)
        seen = v if projection is None else v @ projection / np.sqrt(heads)
        energy = np.einsum("ij,ij->i", seen, seen)
        for tile in tiles(span, positions, heads, TILE):
            p = _weights(queries[:, tile], keys, span, positions[tile], scoring)
            out = p @ seen[: p.shape[-1]]
            own = np.einsum("hqd,hqd->hq", out, out)
            p[:, :, : scoring.sinks] = 0
            square = p * p
            spread = square.sum(axis=-1)
            crossed = np.einsum("hqd,hqd->hq", square @ seen[: p.shape[-1]], out)
            moved = square @ energy[: p.shape[-1]] - 2 * crossed + spread * own
            self.key[head] += moved.sum()
            self.value[head] += spread.sum() / heads
            self.output += own.sum()
        self.power[head] += np.square(queries.astype(np.float64)).sum(axis=(0, 1)) / heads
        self.queries += len(positions) if head == 0 else 0

    def merge(self, other: Sensitivity) -> None:
        """Add the sums of other queries."""
        self.queries += other.queries
        self.power += other.power
        self.key += other.key
        self.value += other.value
        self.output += other.output

    def shares(self) -> tuple[F64, F64, F64]:
        """Mean power of the queries, then `key` and `value` as above, per KV head."""
        dim = self.power.shape[1]
        output = max(self.output, np.finfo(np.float64).tiny)
        return self.power / max(self.queries, 1), self.key / (dim * output), self.value / output


def _weights(
    queries: NDArray[Any], keys: NDArray[Any], span: Span, positions: Ints, scoring: Scoring
) -> F64:
    """Attention weights, ``(heads, positions, keys up to the last that is seen)``."""
    _, last = span.keys(positions)
    scores = queries.astype(np.float64) * scoring.scale @ keys[:last].astype(np.float64).T
    if scoring.softcap is not None:
        scores = np.tanh(scores / scoring.softcap) * scoring.softcap
    hidden = span.hidden(positions, 0, last)
    if hidden is not None:
        scores[:, hidden] = -np.inf
    scores -= scores.max(axis=-1, keepdims=True)
    p: F64 = np.exp(scores, out=scores)
    p /= p.sum(axis=-1, keepdims=True)
    return p
