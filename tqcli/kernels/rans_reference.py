"""The specification of rANS streams: small integers under static tables, in 32 lanes.

Symbols come in rows, each with a table of its own. Symbol ``i`` of a row belongs to lane
``i % 32``, whose state ``x`` is an integer of 32 bits, at or above 2^16. A table gives each symbol
``s`` a frequency ``f`` of 4,096 slots, those from ``start`` on. To decode, forwards from the first
row::

    slot = x % 4096                         # the symbol is the one that owns the slot
    x = f * (x // 4096) + slot - start
    if x < 65536: x = x * 65536 + next word # of 16 bits, shared by all lanes

Encoding runs the same steps backwards from the last symbol, each lane from x = 65536, so that a
whole stream ends with every state there again. Little-endian::

    u32 words | u32 escapes | u32 state[32] | u16 word[words] | i16 escape[escapes]

Symbols are -127 to 127; -128 is the escape, which stands for any integer of 16 bits: the next of
the escapes. Everything is integer arithmetic, so every kernel gives the same bytes and symbols.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LANES = 32
BITS = 12
SLOTS = 1 << BITS
SYMBOLS = 256
ESCAPE = -128
SILENT = 255  # in place of a table: the row is all zeros, and not in the stream
LOW = 1 << 16
HEADER = 8 + 4 * LANES

I16 = NDArray[np.int16]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]


def encode(symbols: I16, frequencies: U16, tables: U8) -> U8:
    """Encode rows of symbols.

    Parameters
    ----------
    symbols : int16 array, shape (rows, width)
    frequencies : uint16 array, shape (tables, 256)
        Of the symbols -128 to 127; each row sums to 4,096, that of the escape is not 0.
    tables : uint8 array, shape (rows,)
        Table of each row, or :data:`SILENT`.

    Returns
    -------
    uint8 array
        The stream.
    """
    state = np.full(LANES, LOW, np.uint64)
    starts = np.cumsum(frequencies, axis=1, dtype=np.uint64) - frequencies
    words: list[U16] = []  # backwards, as they are given away
    escapes: list[I16] = []
    for row, table in zip(symbols[::-1], tables[::-1], strict=True):
        if table == SILENT:
            continue
        inside = (row > ESCAPE) & (row < SYMBOLS // 2)
        place = np.where(inside, row, ESCAPE) - ESCAPE
        place[frequencies[table][place] == 0] = 0
        escapes.append(row[place == 0])
        for at in range(_last_block(row), -1, -LANES):
            block = place[at : at + LANES]
            x = state[: len(block)]
            f = frequencies[table][block].astype(np.uint64)
            full = x >> np.uint64(32 - BITS) >= f
            words.append(x[full][::-1].astype(np.uint16))
            x = np.where(full, x >> np.uint64(16), x)
            state[: len(block)] = (x // f << np.uint64(BITS)) + x % f + starts[table][block]
    word = np.concatenate([np.empty(0, np.uint16), *words])[::-1]
    escape = np.concatenate([np.empty(0, np.int16), *escapes[::-1]])
    counts = np.array([len(word), len(escape)], np.uint32)
    parts = (counts, state.astype(np.uint32), word, escape)
    return np.frombuffer(b"".join(part.tobytes() for part in parts), np.uint8).copy()


def decode(stream: U8, lookups: U32, tables: U8, symbols: I16) -> str | None:
    """Decode a stream into `symbols`, ``(rows, width)``; say what is wrong with it, or None.

    Parameters
    ----------
    stream : uint8 array
    lookups : uint32 array, shape (tables, 4096)
        From :func:`lookup_tables`.
    tables : uint8 array, shape (rows,)
    symbols : int16 array, shape (rows, width)
        Overwritten.
    """
    if len(stream) < HEADER:
        return "shorter than its header"
    words, escapes = (int(count) for count in stream[:8].view(np.uint32))
    if 2 * (words + escapes) != len(stream) - HEADER:
        return "another length than it says"
    state = stream[8:HEADER].view(np.uint32).astype(np.uint64)
    word = stream[HEADER : HEADER + 2 * words].view(np.uint16)
    escape = stream[HEADER + 2 * words :].view(np.int16)
    taken = escaped = 0
    for row, table in zip(symbols, tables, strict=True):
        if table == SILENT:
            row[:] = 0
            continue
        for at in range(0, len(row), LANES):
            x = state[: len(row) - at]
            entry = lookups[table][x % SLOTS]
            x = (entry % SLOTS) * (x >> np.uint64(BITS)) + (entry >> 12) % SLOTS
            low = np.flatnonzero(x < LOW)
            if taken + len(low) > words:
                return "it ends before its symbols do"
            x[low] = x[low] << np.uint64(16) | word[taken : taken + len(low)]
            taken += len(low)
            state[: len(x)] = x
            row[at : at + LANES] = (entry >> 24).astype(np.uint8).view(np.int8)
        at_escape = np.flatnonzero(row == ESCAPE)
        if escaped + len(at_escape) > escapes:
            return "an escape has no value"
        row[at_escape] = escape[escaped : escaped + len(at_escape)]
        escaped += len(at_escape)
    if (state != LOW).any():
        return "it does not end as it began"
    if taken != words or escaped != escapes:
        return "something is left over"
    return None


def lookup_tables(frequencies: U16) -> U32:
    """What owns each slot: ``frequency | (slot - start) << 12 | (symbol & 255) << 24``.

    Parameters
    ----------
    frequencies : uint16 array, shape (tables, 256)

    Returns
    -------
    uint32 array, shape (tables, 4096)
    """
    out = np.empty((len(frequencies), SLOTS), np.uint32)
    for row, counts in zip(out, frequencies.astype(np.uint32), strict=True):
        place = np.repeat(np.arange(SYMBOLS, dtype=np.uint32), counts)
        starts = np.cumsum(counts, dtype=np.uint32) - counts
        offset = np.arange(SLOTS, dtype=np.uint32) - starts[place]
        row[:] = counts[place] | offset << 12 | (place ^ SYMBOLS // 2) << 24
    return out


def _last_block(row: I16) -> int:
    """Where the last run of at most 32 symbols of a row begins."""
    return (len(row) - 1) // LANES * LANES
