"""What an archive calibration sums over a dump: moments of K and V, sensitivity of attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.archive.moments import PIECE, Moments
from tqcli.archive.weights import Weights, weights
from tqcli.errors import InputError
from tqcli.kv.dump import Dump, KVTensor
from tqcli.metrics.causal import Span, sample_positions
from tqcli.metrics.sensitivity import FIRST_QUERY, Sensitivity
from tqcli.pipeline.attention_layer import Layer, plan_layer, projections
from tqcli.pipeline.pieces import Cleaner, read_head
from tqcli.rope import Rope, remove_rope, rope_of

SINKS = 4
QUERIES = 256  # positions of a sequence whose queries are looked at
SEED = 7

F64 = NDArray[np.float64]


@dataclass
class Calibration:
    """The sums of one dump or several.

    Attributes
    ----------
    moments : Moments
    sensitivity : dict of int to Sensitivity
        By layer.
    grams : dict of int to float32 array, shape (num_kv_heads, v_dim, v_dim)
        Of the output projection; the same in every dump of a model.
    shapes : list of (num_kv_heads, k_dim, v_dim)
        In the order of the layers.
    """

    moments: Moments
    sensitivity: dict[int, Sensitivity]
    grams: dict[int, NDArray[np.float32]]
    shapes: list[tuple[int, int, int]]

    def merge(self, other: Calibration) -> None:
        """Add the sums of other texts."""
        self.moments.merge(other.moments)
        for layer, own in self.sensitivity.items():
            own.merge(other.sensitivity[layer])

    def weights(self, ropes: Mapping[int, Rope]) -> list[Weights]:
        """The weighting of each layer."""
        out = []
        for layer in sorted(self.sensitivity):
            power, key, value = self.sensitivity[layer].shares()
            out.append(weights(by_pairs(power, ropes[layer]), key, value, self.grams[layer]))
        return out


def calibrate(dump: Dump, reach: int) -> Calibration:
    """Sum over all tokens of a dump but the first four of each sequence.

    Parameters
    ----------
    dump : Dump
        With queries and the Gram matrices of the output projection.
    reach : int
        As :class:`tqcli.archive.moments.Moments` takes it.

    Raises
    ------
    InputError
        If a layer lacks K, V, Q or its Gram matrix, or layers differ in their tokens.
    """
    layers = [_layer(dump, index) for index in dump.layers]
    shapes = [(x.k.shape[1], x.k.shape[3], x.v.shape[3]) for x in layers]
    moments = Moments([heads * (k + v) for heads, k, v in shapes], reach)
    if len({layer.k.shape[::2] for layer in layers}) > 1:
        raise InputError(f"{dump.path}: layers of other lengths; an archive holds whole caches")
    for row in range(layers[0].k.shape[0]):
        for span in layers[0].spans:
            for start in range(span.start + SINKS, span.stop, PIECE):
                stop = min(start + PIECE, span.stop)
                moments.add([_vectors(dump, layer, row, start, stop, span) for layer in layers])
    return Calibration(
        moments,
        {layer.k.layer: _sensitivity(layer) for layer in layers},
        {layer.k.layer: layer.gram.read() for layer in layers if layer.gram is not None},
        shapes,
    )


def by_pairs(power: F64, rope: Rope) -> F64:
    """The mean over the two values that RoPE turns together; others stay as they are."""
    out, dims = power.copy(), rope.rotary_dims
    first, second = (
        (slice(0, dims // 2), slice(dims // 2, dims))
        if rope.pairs == "half"
        else (slice(0, dims, 2), slice(1, dims, 2))
    )
    mean = (power[:, first] + power[:, second]) / 2
    out[:, first] = out[:, second] = mean
    return out


def _layer(dump: Dump, index: int) -> Layer:
    layer = plan_layer(dump, index, SINKS)
    if isinstance(layer, str):
        raise InputError(
            f"{dump.path}: layers.{index}: {layer}; dump it anew with --queries and K after RoPE"
        )
    if layer.gram is None:
        raise InputError(f"{dump.path}: layers.{index}: no o_gram; dump it anew with --queries")
    return layer


def _vectors(
    dump: Dump, layer: Layer, row: int, start: int, stop: int, span: Span
) -> NDArray[np.float32]:
    """K before RoPE and V of some tokens, ``(tokens, values)``."""
    rope = rope_of(dump.source.get("rope"), layer.k.layer)
    k, v = (_tokens(tensor, row, start, stop) for tensor in (layer.k, layer.v))
    k = remove_rope(k, np.arange(start - span.start, stop - span.start), rope)
    return np.concatenate([x.transpose(1, 0, 2).reshape(stop - start, -1) for x in (k, v)], axis=1)


def _tokens(tensor: KVTensor, row: int, start: int, stop: int) -> NDArray[np.float32]:
    """Some tokens of all heads of one sequence, float32 ``(heads, tokens, dim)``."""
    _, heads, seq_len, dim = tensor.shape
    entry = tensor.stored.entry
    out = np.empty((heads, stop - start, dim), entry.dtype)
    for head in range(heads):
        first = ((row * heads + head) * seq_len + start) * dim
        tensor.stored.file.read(entry, first * entry.dtype.itemsize, out[head])
    return out.astype(np.float32)


def _sensitivity(layer: Layer) -> Sensitivity:
    batch, heads, _, dim = layer.k.shape
    found = Sensitivity(heads, dim)
    mixing: Sequence[Any] = projections(layer) or [None] * heads
    cleaner = Cleaner()
    for row in range(batch):
        for head in range(heads):
            k, v = (read_head(x, row * heads + head, cleaner) for x in (layer.k, layer.v))
            first = (row * heads + head) * layer.group
            q = np.stack([read_head(layer.q, first + i, cleaner) for i in range(layer.group)])
            for span in layer.spans:
                at = FIRST_QUERY + sample_positions(span.length - FIRST_QUERY, QUERIES, SEED)
                own = slice(span.start, span.stop)
                found.add(
                    head, q[:, own][:, at], k[own], v[own], mixing[head], span, at, layer.scoring
                )
    return found
