"""What a candidate makes of one tensor, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.codecs import Codec
from tqcli.kv.dump import Dump, KVTensor
from tqcli.kv.packed import PackedTensor
from tqcli.pipeline.pieces import decode_piece, encode_piece, require_finite

# Given the flat index of a piece's first vector, the original vectors (n, head_dim), and whether to
# refuse values that are not finite: the decoded vectors.
Decode = Callable[[int, NDArray[Any], bool], NDArray[Any]]


@dataclass(frozen=True)
class Source:
    """Where the decoded vectors of a tensor come from.

    Attributes
    ----------
    codecs : tuple of Codec
        One for all heads or one a head; empty for a second dump.
    pieces : function
        Given the number of vectors of a piece, a :data:`Decode` for each piece. What is read for
        it is checked against its digest once all were taken.
    """

    codecs: tuple[Codec, ...]
    pieces: Callable[[int], Iterator[Decode]]


def from_type(dump: Dump, tensor: KVTensor, made: tuple[Codec, ...]) -> Source:
    """Vectors are encoded and decoded on the fly."""
    decode = partial(_encode_and_decode, dump, tensor, made)
    return Source(made, lambda count: repeat(decode, -(-tensor.vectors // count)))


def from_packed(path: str, tensor: PackedTensor) -> Source:
    """Blocks of a packed cache are decoded."""
    where, shape = f"{path}: {tensor.name}", tensor.stored.entry.shape[3:]

    def pieces(count: int) -> Iterator[Decode]:
        for _, piece in tensor.stored.pieces(axes=2, limit=count * int(np.prod(shape))):
            yield partial(_decode_blocks, where, tensor, piece.reshape(-1, *shape))

    return Source(tensor.codecs, pieces)


def from_dump(tensor: KVTensor) -> Source:
    """Vectors of a second dump are taken as they are."""

    def pieces(count: int) -> Iterator[Decode]:
        size = tensor.shape[3] * tensor.dtype.itemsize
        for _, piece in tensor.stored.pieces(limit=count * size):
            yield partial(_as_it_is, tensor, piece)

    return Source((), pieces)


def _encode_and_decode(
    dump: Dump,
    tensor: KVTensor,
    made: tuple[Codec, ...],
    first: int,
    x: NDArray[Any],
    checked: bool,
) -> NDArray[Any]:
    blocks = encode_piece(dump, tensor, made, first, x)
    where, head_dim = f"{dump.path}: {tensor.name}", tensor.shape[3]
    return decode_piece(
        where, made, tensor.shape, first, blocks, lambda c, b: c.decode(b, head_dim), checked
    )


def _decode_blocks(
    where: str,
    tensor: PackedTensor,
    blocks: NDArray[np.uint8],
    first: int,
    _: NDArray[Any],
    checked: bool,
) -> NDArray[Any]:
    head_dim = tensor.head_dim
    return decode_piece(
        where,
        tensor.codecs,
        tensor.shape,
        first,
        blocks,
        lambda c, b: c.decode(b, head_dim),
        checked,
    )


def _as_it_is(
    tensor: KVTensor, piece: NDArray[Any], first: int, _: NDArray[Any], checked: bool
) -> NDArray[Any]:
    if checked:
        require_finite(tensor, first, piece)
    return piece
