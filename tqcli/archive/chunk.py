"""The bytes of a chunk: its symbols, component by component, in one stream.

A component is a row of symbols, one a token, and has a table. Rows under the wide tables are halved
``k`` times (``k = 1, 2, 3``), rounding half up, so that what is left fits a narrow one; the bits
that went follow the stream of all rows::

    rANS stream of the halved symbols (kernels/rans_reference.py)
    for each row with k > 0: its low bits, k a token, the first token in the lowest bits of the
    first byte; the last byte is filled with zeros

    symbol = (halved << k) - (1 << k >> 1) + low bits
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tqcli.archive import tables
from tqcli.errors import InputError
from tqcli.kernels import rans

I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]


def pack(symbols: I16, choice: U8) -> U8:
    """Code the symbols of a chunk.

    Parameters
    ----------
    symbols : int16 array, shape (components, tokens)
        -32767 to 32767.
    choice : uint8 array, shape (components,)
        The table of each; silent for components that are zero throughout.

    Returns
    -------
    uint8 array
    """
    shape, shift = tables.shape_of(choice)
    wide = np.flatnonzero(shift)
    if not len(wide):
        return rans.encode(symbols, tables.family(), shape)
    halved = symbols.copy()
    k = shift[wide, None].astype(np.int32)
    moved = symbols[wide].astype(np.int32) + (1 << k >> 1)
    halved[wide] = moved >> k
    low = _pack_bits(moved & ((1 << k) - 1), shift[wide])
    return np.concatenate([rans.encode(halved, tables.family(), shape), low])


def unpack(payload: U8, choice: U8, tokens: int) -> I16:
    """Decode what :func:`pack` made.

    Parameters
    ----------
    payload : uint8 array
    choice : uint8 array, shape (components,)
    tokens : int

    Returns
    -------
    int16 array, shape (components, tokens)

    Raises
    ------
    InputError
        If it is not a chunk of so many tokens under these tables.
    """
    shape, shift = tables.shape_of(choice)
    wide = np.flatnonzero(shift)
    end = len(payload) - int(_bit_bytes(shift[wide], tokens).sum())
    if end < 0:
        raise InputError(f"chunk: {len(payload)} bytes, its low bits alone have more; damaged")
    symbols = rans.decode(payload[:end], tables.family(), shape, tokens)
    if len(wide):
        k = shift[wide, None].astype(np.int32)
        low = _unpack_bits(payload[end:], shift[wide], tokens)
        whole = (symbols[wide].astype(np.int32) << k) - (1 << k >> 1) + low
        if np.abs(whole).max(initial=0) > np.iinfo(np.int16).max:
            raise InputError("chunk: a symbol beyond 16 bits; damaged")
        symbols[wide] = whole
    return symbols


def _bit_bytes(shift: U8, tokens: int) -> NDArray[np.int64]:
    """Bytes of the low bits of each row."""
    return (shift.astype(np.int64) * tokens + 7) // 8


def _pack_bits(low: I32, shift: U8) -> U8:
    rows = []
    for bits, k in zip(low, shift.tolist(), strict=True):
        planes = bits[:, None] >> np.arange(k) & 1
        rows.append(np.packbits(planes.astype(np.uint8), bitorder="little"))
    return np.concatenate(rows)


def _unpack_bits(packed: U8, shift: U8, tokens: int) -> I32:
    low = np.zeros((len(shift), tokens), np.int32)
    at = 0
    for row, k, size in zip(low, shift.tolist(), _bit_bytes(shift, tokens).tolist(), strict=True):
        bits = np.unpackbits(packed[at : at + size], count=k * tokens, bitorder="little")
        row[:] = bits.reshape(tokens, k) @ (1 << np.arange(k))
        at += size
    return low
