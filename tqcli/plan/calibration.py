"""Calibration files: what is known of a model's keys and queries from texts.

A safetensors file with the metadata of :mod:`tqcli.kv.container`, schema ``tq.calibration/1``.
Tensors that come from texts hold one row a text, in the order of the texts' hashes, so that files
merge exactly: in whatever order, the result has the same bytes, and a text counts once.

| tensor | float64 shape | what |
|---|---|---|
| ``layers.{i}.k.sum`` | (texts, 2, num_kv_heads, head_dim) | K before RoPE, by half of the text |
| ``layers.{i}.k.power`` | (texts, 2, num_kv_heads) | squared length of K before RoPE |
| ``layers.{i}.q.power`` | (texts with queries, num_kv_heads, head_dim) | squares of Q after RoPE |
| ``layers.{i}.k.bias`` | (num_kv_heads, head_dim) | bias of the key projection |
| ``layers.{i}.o_gram`` | (num_kv_heads, head_dim, head_dim), float32 | of the output projection |

Only tokens from the fifth of each text on count. Power of queries is summed over the query heads
that share a KV head, and both values of a RoPE pair hold the pair's mean, so that it does not
depend on positions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.kv.container import Container, place_of
from tqcli.kv.tensorfile import ALL_DTYPES
from tqcli.plan.center import CALIBRATED, Center, known_rope
from tqcli.plan.heldout import residual
from tqcli.plan.identity import Identity, require_same_rope
from tqcli.plan.keysums import HALVES, in_order
from tqcli.plan.references import CalibrationFile
from tqcli.plan.tokens import Tokens
from tqcli.rope import Rope, rope_of

SCHEMA = "tq.calibration/1"
# How tensors of a name merge: rows of texts join, or all files hold the same.
BY_TEXT, SAME = "by text", "same"
K_SUM, K_POWER, Q_POWER, K_BIAS, GRAM = "k.sum", "k.power", "q.power", "k.bias", "o_gram"
MERGES = {K_SUM: BY_TEXT, K_POWER: BY_TEXT, Q_POWER: BY_TEXT, K_BIAS: SAME, GRAM: SAME}
_RANKS = {K_SUM: 4, K_POWER: 3, Q_POWER: 3, K_BIAS: 2, GRAM: 3}

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, order=True)
class Text:
    """One text that counts.

    Parameters
    ----------
    sha256 : str
        Of its token ids; of its place in the dump where those are not known.
    tokens : int
        Of the whole text.
    counted : tuple of int
        Tokens that count in its first and its second half.
    queries : bool
        Whether their power is known.
    """

    sha256: str
    tokens: int
    counted: tuple[int, int]
    queries: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "sha256": self.sha256,
            "tokens": self.tokens,
            "counted": list(self.counted),
            "queries": self.queries,
        }

    @classmethod
    def from_json(cls, data: Any) -> Text:
        """Inverse of :meth:`to_json`; ValueError, KeyError or TypeError if it is none."""
        first, second = data["counted"]
        made = cls(data["sha256"], data["tokens"], (first, second), data["queries"])
        numbers = (made.tokens, first, second)
        if not isinstance(made.sha256, str) or not isinstance(made.queries, bool):
            raise ValueError(data)
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
            raise ValueError(data)
        return made


class Evidence(Protocol):
    """What a calibration is made of: a dump's sums, another calibration, a model's biases."""

    where: str
    identity: Identity
    texts: list[Text]  # rows of the tensors, in this order

    @property
    def layers(self) -> list[int]:
        """Layers that it speaks of."""
        ...

    def rope(self, layer: int) -> Rope:
        """RoPE of a layer."""
        ...

    def shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors of a layer by name, known before they are read."""
        ...

    def tensors(self, layer: int) -> Tensors:
        """The tensors of a layer by name; those of texts have a row each."""
        ...


class Calibration(Container):
    """An open calibration file.

    Parameters
    ----------
    path : str or path

    Attributes
    ----------
    where : str
        The path.
    identity : Identity
    texts : list of Text
        In the order of their hashes.

    Raises
    ------
    InputError
        It is none, or is not whole.
    """

    dtypes = ALL_DTYPES

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.where = self.path
        try:
            schema = self.record.get("schema")
            if schema != SCHEMA:
                raise InputError(
                    f"{self.path}: schema {schema!r}; a calibration is {SCHEMA!r}, make one with "
                    "tq calibrate"
                )
            self.require_checksums()
            self.identity = Identity.from_json(self.record.get("model"), self.path)
            self.texts = self._read_texts()
            self._names = self._collect()
        except BaseException:
            self.close()
            raise

    def _read_texts(self) -> list[Text]:
        try:
            texts = [Text.from_json(text) for text in self.record["texts"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.path}: metadata lacks its texts ({error!r})") from error
        if texts != sorted({text.sha256: text for text in texts}.values()):
            raise InputError(f"{self.path}: its texts are not in order, or one stands twice")
        return texts

    def _collect(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for name, stored in self.stored.items():
            layer, what = place_of(name, self.path)
            if what not in MERGES:
                raise InputError(
                    f"{self.path}: unknown tensor {name!r}; known are {', '.join(MERGES)} of layers"
                )
            wanted = np.dtype(np.float32 if what == GRAM else np.float64)
            rows = {K_SUM: len(self.texts), K_POWER: len(self.texts), Q_POWER: self.with_queries}
            shape = stored.entry.shape
            fits = len(shape) == _RANKS[what] and shape[0] == rows.get(what, shape[0])
            halves = what not in (K_SUM, K_POWER) or (len(shape) > 1 and shape[1] == HALVES)
            if stored.entry.dtype != wanted or not fits or not halves or 0 in shape:
                raise InputError(
                    f"{self.path}: {name}: {stored.entry.dtype} {shape}; that of {what} for "
                    f"{len(self.texts)} texts is expected"
                )
            found.setdefault(layer, []).append(what)
        for layer, names in found.items():
            whole = {K_SUM, K_POWER} <= set(names) if self.texts else K_BIAS in names
            if not whole:
                raise InputError(f"{self.path}: layers.{layer}: lacks the sums of K")
            self.rope(layer)
        if not found:
            raise InputError(f"{self.path}: no layer in it; not a calibration")
        return found

    @property
    def with_queries(self) -> int:
        """Texts whose queries are known."""
        return sum(text.queries for text in self.texts)

    @property
    def layers(self) -> list[int]:
        """Layers that it speaks of."""
        return sorted(self._names)

    def rope(self, layer: int) -> Rope:
        """RoPE of a layer."""
        try:
            return rope_of(self.record.get("rope"), layer)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error

    def shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors of a layer by name."""
        place = f"layers.{layer}"
        return {n: self.stored[f"{place}.{n}"].entry.shape for n in self._names[layer]}

    def tensors(self, layer: int) -> Tensors:
        """The tensors of a layer by name."""
        return {name: self._read(layer, name) for name in self._names[layer]}

    def _read(self, layer: int, name: str) -> NDArray[Any]:
        values = self.stored[f"layers.{layer}.{name}"].read()
        if not np.isfinite(values).all():
            raise InputError(f"{self.path}: layers.{layer}.{name}: NaN or Inf among its sums")
        return values

    def _require(self, layer: int) -> None:
        if layer not in self._names:
            raise InputError(
                f"{self.path}: knows nothing of layer {layer}; it has {len(self._names)} layers, "
                "calibrate the whole model"
            )

    @property
    def counts(self) -> NDArray[np.int64]:
        """Tokens that count, by text and half: shape (texts, 2)."""
        return np.array([text.counted for text in self.texts], np.int64).reshape(-1, HALVES)

    def mean(self, layer: int) -> NDArray[np.float64]:
        """Mean of K before RoPE, shape (num_kv_heads, head_dim).

        The bias of the key projection where there are no texts.
        """
        self._require(layer)
        if not self.texts:
            return self._read(layer, K_BIAS)
        return in_order(self._read(layer, K_SUM)) / max(int(self.counts.sum()), 1)

    def query_power(self, layer: int) -> NDArray[np.float64] | None:
        """Mean power of the queries that read each value of K; shape (num_kv_heads, head_dim).

        None if no text came with queries. It does not depend on positions: both values of a RoPE
        pair have the pair's mean.
        """
        self._require(layer)
        if Q_POWER not in self._names[layer]:
            return None
        power = self._read(layer, Q_POWER)
        count = sum(sum(text.counted) for text in self.texts if text.queries)
        return in_order(power[:, None]) / max(count, 1)

    def output_gram(self, layer: int) -> NDArray[np.float32] | None:
        """Gram matrix of the output projection, (num_kv_heads, head_dim, head_dim), if known."""
        self._require(layer)
        return self._read(layer, GRAM) if GRAM in self._names[layer] else None

    def residual(self, layer: int) -> float | None:
        """Share of K's power that is left on tokens that are not in the mean; None if unknown."""
        self._require(layer)
        if not self.texts:
            return None
        return residual(self._read(layer, K_SUM), self._read(layer, K_POWER), self.counts)

    def center(
        self, layer: int, shape: tuple[int, int], source: Mapping[str, Any], tokens: Tokens
    ) -> Center:
        """The mean of a layer for keys of `source`.

        Parameters
        ----------
        layer : int
        shape : tuple of int
            (num_kv_heads, head_dim) of those keys.
        source : mapping
            Their provenance.
        tokens : Tokens

        Raises
        ------
        InputError
            The keys are of another model or RoPE, or nothing says what RoPE did to them.
        """
        self.identity.require_same(Identity.of_source(source), self.path)
        rope = known_rope(source, layer, tokens)
        if rope is None:
            raise InputError(
                f"{self.path}: its means are of K before RoPE, and nothing says what RoPE did to "
                f"layer {layer}; leave --calibration out to use the mean of these very keys"
            )
        mean = self.mean(layer)
        require_same_rope(self.rope(layer), rope, f"{self.path}: layer {layer}")
        if mean.shape != shape:
            raise InputError(
                f"{self.path}: layer {layer}: (num_kv_heads, head_dim) {mean.shape}, here it is "
                f"{shape}; calibrate this model"
            )
        return Center.of(mean, rope, CALIBRATED, f"{self.path}: layer {layer}")

    def fingerprint(self) -> str:
        """The checksum of the file: of its metadata, and so of all that is in it."""
        return str(self.checksum)

    def reference(self) -> CalibrationFile:
        """What a plan holds of it."""
        return CalibrationFile(self.path, self.fingerprint())

    def __enter__(self) -> Calibration:
        """The calibration itself."""
        return self


def open_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Open and check a calibration; close it, or use it in a ``with``."""
    return Calibration(path)


def calibration_record(
    identity: Identity, ropes: Mapping[int, Rope], texts: list[Text], version: str
) -> dict[str, Any]:
    """Metadata of a calibration, without the records of its tensors."""
    groups: list[dict[str, Any]] = []
    for layer in sorted(ropes):
        rule = ropes[layer].to_json()
        for group in groups:
            if {key: value for key, value in group.items() if key != "layers"} == rule:
                group["layers"].append(layer)
                break
        else:
            groups.append({"layers": [layer], **rule})
    return {
        "schema": SCHEMA,
        "tq": version,
        "model": identity.to_json(),
        "rope": groups,
        "texts": [text.to_json() for text in texts],
        "tensors": {},
    }
