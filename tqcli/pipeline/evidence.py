"""What dumps and models tell a calibration: sums by text, or the bias of the key projection."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.kv.container import PIECE_BYTES
from tqcli.kv.dump import Dump, KVTensor
from tqcli.pipeline.pieces import Progress, no_progress
from tqcli.plan.calibration import GRAM, K_BIAS, K_POWER, K_SUM, Q_POWER, Tensors, Text
from tqcli.plan.center import known_rope
from tqcli.plan.identity import Identity
from tqcli.plan.keysums import HALVES, KeySums, SquareSums, TextSums, without_magnitude
from tqcli.plan.tokens import Tokens
from tqcli.rope import Rope
from tqcli.sources.base import tokens_sha256


class DumpEvidence:
    """Sums of a dump's keys and queries, layer by layer.

    Parameters
    ----------
    dump : Dump
        In the original domain, with positions, token ids and a known RoPE.
    progress : callable
        Called with the bytes read since the last call.

    Raises
    ------
    InputError
        Something of that is missing, or the dump has no K.
    """

    def __init__(self, dump: Dump, progress: Progress = no_progress) -> None:
        self.dump, self.where, self._progress = dump, dump.path, progress
        if dump.domain != "original":
            raise InputError(f"{dump.path}: {dump.domain} domain; calibrate on an original dump")
        self.identity = Identity.of_source(dump.source)
        self._keys = {tensor.layer: tensor for tensor in dump.kv() if tensor.side == "k"}
        if not self._keys:
            raise InputError(f"{dump.path}: no K in it; calibrate on a dump with layers.N.k")
        self._tokens: dict[tuple[int, int], Tokens] = {}
        self._ropes = {layer: self._known(tensor) for layer, tensor in self._keys.items()}
        self._rows, self.texts = self._find_texts()

    @property
    def layers(self) -> list[int]:
        """Layers with K."""
        return list(self._keys)

    def rope(self, layer: int) -> Rope:
        """RoPE of a layer."""
        return self._ropes[layer]

    def shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors of a layer."""
        _, heads, _, head_dim = self._keys[layer].shape
        texts = len(self.texts)
        shapes: dict[str, tuple[int, ...]] = {
            K_SUM: (texts, HALVES, heads, head_dim),
            K_POWER: (texts, HALVES, heads),
        }
        if self._has_queries:
            shapes[Q_POWER] = (texts, heads, head_dim)
        if (gram := self._gram(layer)) is not None:
            shapes[GRAM] = gram.entry.shape
        return shapes

    def tensors(self, layer: int) -> Tensors:
        """The sums of a layer; one pass over K and one over Q."""
        key = self._keys[layer]
        rope, tokens = self._ropes[layer], self._tokens_of(key)
        sums = KeySums(key.shape, tokens, rope, f"{self.where}: {key.name}")
        squares = SquareSums(key.shape, tokens, sums.where)
        self._read(key, sums, squares)
        power = without_magnitude(squares.sums(), rope).sum(axis=-1)
        found: Tensors = {K_SUM: sums.sums()[self._rows], K_POWER: power[self._rows]}
        query = self.dump.get(layer, "q") if self._has_queries else None
        if query is not None:
            found[Q_POWER] = self._query_power(query, key, rope)[self._rows]
        if (gram := self._gram(layer)) is not None:
            found[GRAM] = gram.read()
        return found

    def _known(self, key: KVTensor) -> Rope:
        rope = known_rope(self.dump.source, key.layer, self._tokens_of(key))
        if rope is None:
            raise InputError(
                f"{self.where}: {key.name}: nothing says what RoPE did to it; calibrate on what "
                "tq dump MODEL writes"
            )
        return rope

    def _tokens_of(self, tensor: KVTensor) -> Tokens:
        batch, _, seq_len, _ = tensor.shape
        key = batch, seq_len
        if key not in self._tokens:
            self._tokens[key] = Tokens.of_dump(self.dump, batch, seq_len)
        return self._tokens[key]

    def _find_texts(self) -> tuple[list[int], list[Text]]:
        """Texts in the order of their hashes, and the place of each among the sums."""
        first = next(iter(self._keys.values()))
        tokens, ids = self._tokens_of(first), self.dump.token_ids()
        if any(self._tokens_of(key) is not tokens for key in self._keys.values()):
            raise InputError(f"{self.where}: its layers differ in length; calibrate on whole texts")
        batch, _, seq_len, _ = first.shape
        if ids is not None and ids.size == batch * seq_len:
            ids = ids.reshape(batch, seq_len)
        else:
            ids = None
        counts = KeySums(first.shape, tokens, None).counts.tolist()
        found: dict[str, tuple[Text, int]] = {}
        place = 0
        for number in range(batch):
            for start, stop in tokens.texts(tokens.row(number)):
                name = self._text_hash(ids, number, start, stop)
                a, b = counts[place]
                if a + b and name not in found:
                    text = Text(name, stop - start, (a, b), self._has_queries)
                    found[name] = text, place
                place += 1
        if not found:
            raise InputError(
                f"{self.where}: no text of more than 4 tokens in it; the first 4 of each count in "
                "no mean"
            )
        order = sorted(found)
        return [found[name][1] for name in order], [found[name][0] for name in order]

    def _text_hash(self, ids: NDArray[np.int32] | None, number: int, start: int, stop: int) -> str:
        if ids is not None:
            return tokens_sha256(ids[number, start:stop])
        place = f"{self.dump.fingerprint()} {number} {start} {stop}"
        return sha256(place.encode()).hexdigest()

    @property
    def _has_queries(self) -> bool:
        return all(self.dump.get(layer, "q") is not None for layer in self._keys)

    def _gram(self, layer: int) -> Any:
        return self.dump.stored.get(f"layers.{layer}.o_gram")

    def _query_power(self, query: KVTensor, key: KVTensor, rope: Rope) -> NDArray[np.float64]:
        """Squares of Q summed over the query heads of each KV head, one value a RoPE pair."""
        batch, heads, seq_len, head_dim = query.shape
        if (batch, seq_len, head_dim) != (*key.shape[::2], key.shape[3]) or heads % key.shape[1]:
            raise InputError(f"{self.where}: {query.name}: {query.shape} does not fit {key.shape}")
        squares = SquareSums(query.shape, self._tokens_of(key), f"{self.where}: {query.name}")
        self._read(query, squares)
        sums = squares.sums().sum(axis=1)
        grouped = sums.reshape(len(sums), key.shape[1], -1, head_dim)
        power: NDArray[np.float64] = grouped.sum(axis=2)
        first, second = rope.columns()
        pair = (power[..., first] + power[..., second]) / 2
        power[..., first] = power[..., second] = pair
        return power

    def _read(self, tensor: KVTensor, *sums: TextSums) -> None:
        for first, piece in tensor.stored.pieces(limit=PIECE_BYTES // 4):
            for one in sums:
                one.add(first, piece)
            self._progress(piece.nbytes)


class BiasEvidence:
    """The bias of a model's key projection, which needs no text.

    Parameters
    ----------
    provenance : mapping
        Of the model: kind, model, config_sha256 ...
    ropes : mapping of int to Rope
    biases : mapping of int to float array (num_kv_heads, head_dim)
    """

    def __init__(
        self,
        provenance: Mapping[str, Any],
        ropes: Mapping[int, Rope],
        biases: Mapping[int, NDArray[Any]],
    ) -> None:
        self.identity = Identity.of_source(provenance)
        self.where = str(self.identity)
        self.texts: list[Text] = []
        self._ropes = ropes
        self._biases = {layer: bias.astype(np.float64) for layer, bias in biases.items()}

    @property
    def layers(self) -> list[int]:
        """Layers with a bias."""
        return sorted(self._biases)

    def rope(self, layer: int) -> Rope:
        """RoPE of a layer."""
        return self._ropes[layer]

    def shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors of a layer."""
        return {K_BIAS: self._biases[layer].shape}

    def tensors(self, layer: int) -> Tensors:
        """The bias of a layer."""
        return {K_BIAS: self._biases[layer]}
