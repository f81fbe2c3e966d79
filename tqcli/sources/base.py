"""What every place that tensors come from offers: a description first, tensors one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Tensor: TypeAlias = NDArray[Any]
Named: TypeAlias = tuple[str, Tensor]
# name, codec id, uint8 blocks (batch, num_kv_heads, seq_len, blocks_per_vector, block_bytes)
PackedTensor: TypeAlias = tuple[str, str, NDArray[np.uint8]]


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that a source will yield.

    Parameters
    ----------
    name : str
        ``layers.{i}.k``, ``layers.{i}.v`` or ``layers.{i}.q``.
    shape : tuple of int
        ``(batch, heads, seq_len, head_dim)``.
    dtype : str
        What :meth:`Source.tensors` yields: ``float16``, ``bfloat16`` or ``float32``.
    stored : str
        How the source itself holds the values (``f16``, ``q8_0``, ``turbo3`` ...); empty where
        that is the same thing as `dtype`.
    nbytes : int
        Bytes that the source spends on this tensor; 0 where that is not known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str = ""
    nbytes: int = 0


@dataclass(frozen=True)
class SourceInfo:
    """What a source holds, known before anything large is read.

    Parameters
    ----------
    tensors : tuple of TensorSpec
        In the order in which they will come: by layer, K before V before Q.
    provenance : mapping
        JSON values only: kind, model, revision, config_sha256, tokens_sha256, num_tokens, rope,
        gqa_ratio, layer_kinds and what is particular to the kind of source.
    notes : tuple of str
        What is missing or odd, one sentence each, for a person to read.
    """

    tensors: tuple[TensorSpec, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@runtime_checkable
class Source(Protocol):
    """A place where K, V and Q come from."""

    def describe(self) -> SourceInfo:
        """Say what will come without reading it; cheap enough for ``tq inspect``."""
        ...

    def tensors(self) -> Iterator[Named]:
        """Yield ``(name, array)`` in layer order; no more than one tensor is held at a time."""
        ...


@runtime_checkable
class PackedSource(Source, Protocol):
    """A source whose values are already in a codec's blocks."""

    def packed(self) -> Iterator[PackedTensor]:
        """Yield ``(name, codec id, blocks)`` in layer order, the bytes as they are stored."""
        ...


def tokens_sha256(tokens: Sequence[int] | NDArray[np.integer[Any]]) -> str:
    """Hash of token ids, the same for every source: SHA-256 over little-endian int32.

    Examples
    --------
    >>> tokens_sha256([1, 2, 3])[:16]
    '4636993d3e1da4e9'
    """
    return hashlib.sha256(np.asarray(tokens, dtype="<i4").tobytes()).hexdigest()
