"""One layer of a dump as attention needs it: what its metadata says, checked, and its heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.kv.container import Stored
from tqcli.kv.dump import Dump, KVTensor
from tqcli.metrics.attention import Scoring
from tqcli.metrics.causal import Span, spans

# Rounding of a float32 Gram matrix may push its smallest eigenvalue below zero by this share of
# the largest.
_GRAM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Layer:
    """K, V and Q of one layer, and how its attention works.

    Attributes
    ----------
    spans : tuple of Span
        Sequences on the token axis, the same in every row of the batch.
    notes : tuple of str
        What the figures leave out.
    """

    k: KVTensor
    v: KVTensor
    q: KVTensor
    scoring: Scoring
    spans: tuple[Span, ...]
    gram: Stored | None
    notes: tuple[str, ...] = ()

    @property
    def group(self) -> int:
        """Query heads that share one KV head."""
        return self.q.shape[1] // self.k.shape[1]

    @property
    def positions(self) -> int:
        """Query positions: tokens of all sequences."""
        return self.k.shape[0] * self.k.shape[2]

    @property
    def pairs(self) -> int:
        """Visible keys, summed over all queries of all heads."""
        seen = sum(int(span.seen(np.arange(span.length)).sum()) for span in self.spans)
        return seen * self.q.shape[0] * self.q.shape[1]


def plan_layer(dump: Dump, index: int, sinks: int) -> Layer | str:
    """Check that K, V and Q of a layer fit each other; the reason where they cannot be judged.

    Raises
    ------
    InputError
        If shapes or metadata contradict each other.
    """
    k, v, q = (dump.get(index, side) for side in "kvq")
    if q is None:
        return "no queries"
    if k is None or v is None:
        return "queries without K or V"
    if str(dump.source.get("k", "")).startswith("before"):
        return "K before RoPE"
    _check_shapes(dump, k, q)
    if not k.shape[2]:
        return "no tokens"
    facts = _facts(dump, index)
    notes = []
    if facts.get("attention_sinks"):
        notes.append(f"layers.{index}: its learned sink logits are left out of the softmax")
    window = _window(dump, index)
    lengths = _lengths(dump, k)
    if window is not None and window >= max(lengths):
        notes.append(
            f"layers.{index}: its window of {window} tokens is longer than any sequence here "
            f"({max(lengths)}); what a full window does was not seen"
        )
    scale = _number(dump, index, facts, "scale", k.shape[3] ** -0.5)
    softcap = _number(dump, index, facts, "softcap", None)
    scoring = Scoring(float(scale or 0.0), softcap, sinks)
    gram = _gram(dump, index, v)
    return Layer(k, v, q, scoring, tuple(spans(lengths, window)), gram, tuple(notes))


def _check_shapes(dump: Dump, k: KVTensor, q: KVTensor) -> None:
    where = f"{dump.path}: layers.{k.layer}"
    if (q.shape[0], q.shape[2]) != (k.shape[0], k.shape[2]):
        raise InputError(
            f"{where}: q {q.shape} and k {k.shape} differ in batch or seq_len; attention needs "
            "every key of its queries, dump the layer anew with its whole cache"
        )
    if q.shape[3] != k.shape[3]:
        raise InputError(
            f"{where}: q has head_dim {q.shape[3]}, k {k.shape[3]}; they must be equal, dump the "
            "queries that the attention of this layer uses"
        )
    if q.shape[1] % k.shape[1]:
        raise InputError(
            f"{where}: {q.shape[1]} query heads for {k.shape[1]} KV heads; a multiple is legal, "
            "every KV head serves as many query heads"
        )


def _facts(dump: Dump, index: int) -> dict[str, Any]:
    """What the metadata says of the attention of a layer."""
    groups = dump.source.get("attention", [])
    if not isinstance(groups, list) or not all(isinstance(g, dict) for g in groups):
        raise InputError(f"{dump.path}: metadata 'attention' is no list of objects; dump it anew")
    for group in groups:
        layers = group.get("layers")
        if isinstance(layers, list) and index in layers:
            return dict(group)
    return {}


def _number(
    dump: Dump, index: int, facts: dict[str, Any], name: str, default: float | None
) -> float | None:
    value = facts.get(name, default)
    if value is None:
        return None
    legal = isinstance(value, int | float) and not isinstance(value, bool)
    if not legal or not 0 < value < float("inf"):
        raise InputError(
            f"{dump.path}: layers.{index}: attention {name} is {value!r}; a positive number is "
            "legal, dump it anew"
        )
    return float(value)


def _window(dump: Dump, index: int) -> int | None:
    windows = dump.source.get("windows", {})
    value = windows.get(str(index)) if isinstance(windows, dict) else windows
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(
            f"{dump.path}: layers.{index}: window {value!r}; a number of tokens from 1 on is "
            "legal, dump it anew"
        )
    return value


def _lengths(dump: Dump, k: KVTensor) -> list[int]:
    """Lengths of the sequences in one row of the batch."""
    batch, _, seq_len, _ = k.shape
    lengths = dump.source.get("sequence_lengths")
    if lengths is None:
        return [seq_len]
    if isinstance(lengths, list) and all(type(n) is int and n > 0 for n in lengths):
        if lengths == [seq_len] * batch:
            return [seq_len]
        if batch == 1 and sum(lengths) == seq_len:
            return lengths
    raise InputError(
        f"{dump.path}: sequence_lengths do not add up to {k.name} of shape {k.shape}; dump it anew"
    )


def _gram(dump: Dump, index: int, v: KVTensor) -> Stored | None:
    stored = dump.stored.get(f"layers.{index}.o_gram")
    if stored is None:
        return None
    shape = (v.shape[1], v.shape[3], v.shape[3])
    if stored.entry.shape != shape or stored.entry.dtype != np.float32:
        raise InputError(
            f"{dump.path}: layers.{index}.o_gram: {stored.entry.dtype} {stored.entry.shape}; "
            f"float32 {shape} is legal, dump it anew"
        )
    return stored


def projections(layer: Layer) -> list[NDArray[np.float64]] | None:
    """A matrix per KV head whose image of a vector is as long as its output projection.

    ``v @ gram @ v`` is the energy of v behind the projection; with ``gram = L @ L.T`` it is that
    of ``v @ L``. None where the dump has no Gram matrices.
    """
    if layer.gram is None:
        return None
    gram = layer.gram.read().astype(np.float64)
    where = f"{layer.gram.file.path}: layers.{layer.k.layer}.o_gram"
    if not np.isfinite(gram).all():
        raise InputError(f"{where}: NaN or Inf; values must be finite, dump it anew")
    values, vectors = np.linalg.eigh((gram + gram.transpose(0, 2, 1)) / 2)
    if (values[:, 0] < -_GRAM_TOLERANCE * values[:, -1]).any():
        raise InputError(f"{where}: a negative eigenvalue; a Gram matrix has none, dump it anew")
    return list(vectors * np.sqrt(np.maximum(values, 0))[:, None, :])
