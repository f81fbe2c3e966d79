"""A whole cache as chunks of tokens, each decodable by itself.

Tokens are coded in *stretches* of up to 4,096, and these in *chunks* of 256. All chunks of a
stretch share the tables of their components, which are chosen from all its symbols: they are
coded twice, the first time under the tables that the stretch's first chunk asks for. Working
memory is one chunk of symbols, one group of vectors, and a stretch of coded bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.archive import chunk, tables, transform
from tqcli.archive.code import Code
from tqcli.archive.steps import LayerSteps, values
from tqcli.archive.transform import GroupEncoder
from tqcli.errors import InputError, input_error
from tqcli.kernels import rans

CHUNK = 256
STRETCH = 4096
# The row of choices is coded under a table of its own, whose number stands before it.
_SILENT_PLACE = -1  # one narrower than the narrowest table

F32 = NDArray[np.float32]
I16 = NDArray[np.int16]
U8 = NDArray[np.uint8]
# K before RoPE and V of a layer, (num_kv_heads, tokens, dim), for tokens from start to stop
Read = Callable[[int, int, int], tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some tokens of all layers.

    Parameters
    ----------
    start, tokens : int
        Which they are, counted in the cache.
    payload : uint8 array
        :func:`tqcli.archive.chunk.pack` of all components, groups in order.
    """

    start: int
    tokens: int
    payload: U8


@dataclass(frozen=True, eq=False)
class Stretch:
    """Chunks that share their tables.

    Parameters
    ----------
    tables : uint8 array
        :func:`pack_choice` of the table of each component.
    chunks : sequence of Chunk
    """

    tables: U8
    chunks: Sequence[Chunk]

    @property
    def nbytes(self) -> int:
        """Bytes of tables and chunks."""
        return self.tables.nbytes + sum(part.payload.nbytes for part in self.chunks)


class Encoder:
    """What turns a cache into stretches.

    Parameters
    ----------
    code : Code

    Raises
    ------
    InputError
        If a basis is not orthonormal, or a mixing of V has no inverse.
    """

    def __init__(self, code: Code) -> None:
        self.code = code
        self._layers = [LayerSteps(layer) for layer in code.layers]
        self._groups = [GroupEncoder(group) for group in code.groups]

    def symbols(self, read: Read, start: int, stop: int) -> I16:
        """Symbols of the tokens from `start` to `stop`, int16 ``(components, tokens)``."""
        out = np.empty((self.code.components, stop - start), np.int16)
        before: list[I16] = []
        at = 0
        for number, encoder in enumerate(self._groups):
            parts = [self._layers[i](*read(i, start, stop)) for i in self.code.layers_of(number)]
            try:
                symbols, x = encoder.encode(np.concatenate(parts), before)
            except InputError as error:
                raise InputError(f"tokens {start} to {stop}, group {number}: {error}") from error
            out[at : at + len(symbols)] = symbols
            at += len(symbols)
            before = follow(self.code, before, x)
        return out

    def stretches(self, read: Read, start: int, stop: int) -> Iterator[Stretch]:
        """Code the tokens from `start` to `stop`.

        Parameters
        ----------
        read : callable
            ``read(layer, start, stop)`` gives K before RoPE and V, ``(num_kv_heads, tokens,
            dim)``; `layer` counts the layers of the code.
        start, stop : int
        """
        for first in range(start, stop, STRETCH):
            last = min(first + STRETCH, stop)
            places = ((at, min(at + CHUNK, last)) for at in range(first, last, CHUNK))
            yield make_stretch(self.code, ((at, self.symbols(read, at, end)) for at, end in places))


def make_stretch(code: Code, parts: Iterable[tuple[int, I16]]) -> Stretch:
    """Code the symbols of chunks that share their tables.

    Parameters
    ----------
    code : Code
    parts : iterable of (int, int16 array)
        First token of each chunk, and its symbols ``(components, tokens)``.
    """
    counts = tables.Counts(code.components)
    before: U8 | None = None
    chunks = []
    for start, symbols in parts:
        counts.add(symbols)
        if before is None:
            before = np.where(counts.magnitude == 0, 0, counts.choose()).astype(np.uint8)
        chunks.append(Chunk(start, symbols.shape[1], chunk.pack(symbols, before)))
    choice = counts.choose()
    if before is not None:
        chunks = [recode(part, before, choice) for part in chunks]
    return Stretch(pack_choice(choice, code.expected), chunks)


def recode(part: Chunk, before: U8, after: U8) -> Chunk:
    """A chunk under other tables."""
    symbols = chunk.unpack(part.payload, before, part.tokens)
    return Chunk(part.start, part.tokens, chunk.pack(symbols, after))


def decode_chunk(code: Code, part: Chunk, choice: U8) -> Iterator[tuple[int, F32, F32]]:
    """The values of a chunk, layer by layer.

    Parameters
    ----------
    code : Code
        The one that it was coded with.
    part : Chunk
    choice : uint8 array, shape (components,)
        From :func:`unpack_choice`.

    Yields
    ------
    (layer, k, v)
        K before RoPE ``(num_kv_heads, tokens, k_dim)`` and V ``(num_kv_heads, tokens, v_dim)``.

    Raises
    ------
    InputError
        If the payload is not such a chunk; the message names its tokens.
    """
    try:
        symbols = chunk.unpack(part.payload, choice, part.tokens)
    except InputError as error:
        raise InputError(f"tokens {part.start} to {part.start + part.tokens}: {error}") from error
    before: list[I16] = []
    at = 0
    for number, group in enumerate(code.groups):
        x = transform.decode(group, symbols[at : at + group.width], before)
        at += group.width
        before = follow(code, before, x)
        row = 0
        for i in code.layers_of(number):
            layer = code.layers[i]
            yield i, *values(layer, x[row : row + layer.width])
            row += layer.width


def follow(code: Code, before: list[I16], x: NDArray[np.int32]) -> list[I16]:
    """What the next group is predicted from, after `x`."""
    if code.back == 0:
        return []
    return [*before, transform.carry(x)][-code.back :]


def pack_choice(choice: U8, expected: U8) -> U8:
    """Bytes of the table of each component: how it differs from the expected one.

    One byte, the number of a table; then a stream of one row under it.
    """
    place = choice.astype(np.int16)
    place[choice == rans.SILENT] = _SILENT_PLACE
    row = (place - expected)[None]
    counts = tables.Counts(1)
    counts.add(row)
    own = np.minimum(np.where(row.any(), counts.choose(), 0), tables.SHAPES - 1).astype(np.uint8)
    return np.concatenate([own, rans.encode(row, tables.family(), own)])


def unpack_choice(packed: U8, expected: U8) -> U8:
    """Inverse of :func:`pack_choice`.

    Raises
    ------
    InputError
        If it is damaged, or of another code.
    """
    if not len(packed) or packed[0] >= tables.SHAPES:
        raise input_error("tables", "no table of their own", "damaged, or of another code")
    row = rans.decode(packed[1:], tables.family(), packed[:1], len(expected))
    place = row[0].astype(np.int64) + expected
    if place.min(initial=0) < _SILENT_PLACE or place.max(initial=0) >= tables.COUNT:
        raise input_error("tables", "a table that does not exist", "damaged, or of another code")
    return np.where(place == _SILENT_PLACE, rans.SILENT, place).astype(np.uint8)
