"""Packed tensors as sides of a cache: blocks, kept tokens and mean back to vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.codecs.heads import HeadCodecs
from tqcli.errors import InputError
from tqcli.kv.container import Stored
from tqcli.kv.packed import Packed, PackedTensor
from tqcli.plan.center import Center
from tqcli.plan.side import Coded, SidePlan
from tqcli.plan.tokens import Tokens
from tqcli.rope import Rope


def side_of(packed: Packed, tensor: PackedTensor) -> tuple[SidePlan, Tokens]:
    """What decodes a packed tensor, and its token axis.

    Raises
    ------
    InputError
        The kept tokens or the mean are not what the record says.
    """
    where = f"{packed.path}: {tensor.name}"
    batch, heads, seq_len, head_dim = tensor.shape
    positions = packed.stored.get("positions")
    ids = None if positions is None else positions.read()
    tokens = Tokens.of_source(packed.source, ids, batch, seq_len)
    side = SidePlan.of_codecs(
        HeadCodecs(tensor.codecs), heads, head_dim, tensor.keep, _center(tensor, where), where
    )
    kept = sum(stop - first for first, stop in side.kept(tokens))
    if kept != (0 if tensor.kept is None else tensor.kept.entry.shape[2]):
        raise InputError(f"{where}: its record keeps {kept} tokens, its tensor holds others")
    return side, tokens


def _center(tensor: PackedTensor, where: str) -> Center | None:
    if tensor.mean is None:
        return None
    rope, origin = tensor.center.get("rope"), tensor.center.get("origin")
    mean = tensor.mean.read()
    if not np.isfinite(mean).all():
        raise InputError(f"{where}: its mean holds NaN or Inf; make the cache anew")
    return Center(mean, None if rope is None else Rope.from_json(rope), str(origin))


def packed_pieces(
    tensor: PackedTensor, side: SidePlan, tokens: Tokens, count: int
) -> Iterator[tuple[int, int, Coded]]:
    """What is stored of each `count` vectors: ``(first, how many, Coded)``.

    Digests are checked once all was taken.
    """
    blocks_shape = tensor.stored.entry.shape[3:]
    blocks = _Reader(tensor.stored, 2, count * math.prod(blocks_shape))
    kept = None if tensor.kept is None else _Reader(tensor.kept, 1, count * tensor.head_dim * 2)
    none = np.empty((0, tensor.head_dim), np.float16)
    total = math.prod(tensor.shape[:3])
    for first in range(0, total, count):
        size = min(count, total - first)
        coded, floats = side.counts(first, size, tokens)
        own = blocks.take(coded).reshape(-1, *blocks_shape)
        yield first, size, Coded(own, none if kept is None else kept.take(floats))
    for reader in (blocks, kept):
        if reader is not None:
            reader.finish()


def packed_head(tensor: PackedTensor, side: SidePlan, tokens: Tokens, row: int) -> NDArray[Any]:
    """One head of one sequence, float32 (seq_len, head_dim); `row` counts over batch and heads."""
    seq_len = tensor.shape[2]
    blocks = _row(tensor.stored, row)
    none = np.empty((0, tensor.head_dim), np.float16)
    coded = Coded(blocks, none if tensor.kept is None else _row(tensor.kept, row))
    return side.decode(row * seq_len, seq_len, coded, tokens)


def _row(stored: Stored, row: int) -> NDArray[Any]:
    entry = stored.entry
    values = np.empty(entry.shape[2:], entry.dtype)
    stored.file.read(entry, row * values.nbytes, values)
    return values


class _Reader:
    """Vectors of a stored tensor in any numbers, one after the other."""

    def __init__(self, stored: Stored, axes: int, limit: int) -> None:
        self._pieces = (piece for _, piece in stored.pieces(axes=axes, limit=limit))
        width = math.prod(stored.entry.shape[-axes:])
        self._left: NDArray[Any] = np.empty((0, width), stored.entry.dtype)

    def take(self, count: int) -> NDArray[Any]:
        """The next `count` vectors; valid until the next call."""
        parts: list[NDArray[Any]] = []
        while count:
            if not len(self._left):
                self._left = next(self._pieces)
            part, self._left = self._left[:count], self._left[count:]
            count -= len(part)
            if not count and not parts:
                return part
            parts.append(part.copy())  # the next piece may come in its place
        return np.concatenate(parts) if parts else self._left[:0]

    def finish(self) -> None:
        """Take what is left, so that the digest is checked."""
        for _ in self._pieces:
            pass
