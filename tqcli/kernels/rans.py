"""rANS streams: rows of small integers, each under one of a family of static tables.

``rans_reference`` is the specification, with the stream drawn; the compiled kernels give the same
bytes and the same symbols.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError, input_error
from tqcli.kernels import checks, choose, rans_reference
from tqcli.kernels.rans_reference import (
    BITS,
    ESCAPE,
    HEADER,
    SILENT,
    SLOTS,
    SYMBOLS,
    lookup_tables,
)

I16 = NDArray[np.int16]
U8 = NDArray[np.uint8]
MAX_SYMBOLS = 1 << 31  # of one stream


class Tables:
    """Frequencies of symbols, one table a row.

    Parameters
    ----------
    frequencies : uint16 array, shape (tables, 256)
        Slots of the symbols -128 (the escape) to 127. Each row sums to 4,096; the escape has at
        least one slot. At most 255 tables.

    Raises
    ------
    InputError
        If `frequencies` is no such array.
    """

    def __init__(self, frequencies: NDArray[np.uint16]) -> None:
        found = checks.array(frequencies, "frequencies")
        if found.dtype != np.uint16 or found.ndim != 2 or found.shape[1] != SYMBOLS:
            came = f"{found.dtype} {found.shape}"
            raise input_error("frequencies", came, f"uint16 (tables, {SYMBOLS})")
        if not 0 < len(found) <= SILENT:
            raise input_error("frequencies", f"{len(found)} tables", f"1 to {SILENT}")
        if (found.sum(axis=1, dtype=np.int64) != SLOTS).any() or (found[:, 0] == 0).any():
            raise input_error(
                "frequencies", "a row of another sum, or without an escape", f"sums of {SLOTS}"
            )
        self.frequencies = found.copy()
        self.lookups = lookup_tables(self.frequencies)

    def __len__(self) -> int:
        """Number of tables."""
        return len(self.frequencies)


def encode(symbols: I16, tables: Tables, choice: U8) -> U8:
    """Encode rows of symbols into one stream.

    Parameters
    ----------
    symbols : int16 array, shape (rows, width)
        What a table has no slot for costs a slot of its escape and 16 bits.
    tables : Tables
    choice : uint8 array, shape (rows,)
        Number of the table of each row; 255 for a row of zeros that is to cost nothing.

    Returns
    -------
    uint8 array
        136 bytes and more; at most 4 bytes a symbol more.

    Raises
    ------
    InputError
        If an array is not of these types and shapes, or a row with 255 is not zero.
    """
    values, chosen = _rows(symbols), _choice(choice, tables)
    if len(values) != len(chosen):
        raise input_error("choice", f"{len(chosen)} tables", f"{len(values)}, one a row")
    if values[chosen == SILENT].any():
        raise input_error("choice", f"{SILENT} for a row that is not zero", "a table for it")
    if choose.index() is None or choose.native is None:
        return rans_reference.encode(values, tables.frequencies, chosen)
    out = np.empty(HEADER + 4 * values.size, np.uint8)
    size = choose.native.rans_encode(tables.frequencies, chosen, values.shape[1], values, out)
    return out[:size].copy()


def decode(stream: U8, tables: Tables, choice: U8, width: int) -> I16:
    """Decode what :func:`encode` made.

    Parameters
    ----------
    stream : uint8 array
    tables : Tables
    choice : uint8 array, shape (rows,)
        As it was encoded.
    width : int
        Symbols of a row.

    Returns
    -------
    int16 array, shape (rows, width)

    Raises
    ------
    InputError
        If the stream is not one of so many symbols under these tables.
    """
    source = np.ascontiguousarray(checks.array(stream, "stream"))
    if source.dtype != np.uint8 or source.ndim != 1:
        raise input_error("stream", f"{source.dtype} {source.shape}", "uint8 (bytes,)")
    chosen = _choice(choice, tables)
    if width < 0 or len(chosen) * width > MAX_SYMBOLS:
        raise input_error("width", f"{len(chosen)} rows of {width}", f"at most {MAX_SYMBOLS}")
    symbols = np.empty((len(chosen), width), np.int16)
    index = choose.index()
    if index is None or choose.native is None:
        wrong = rans_reference.decode(source, tables.lookups, chosen, symbols)
    else:
        wrong = choose.native.rans_decode(index, tables.lookups, chosen, width, source, symbols)
    if wrong:
        raise InputError(f"stream: {wrong}; it is damaged, or was made with other tables")
    return symbols


def _rows(given: object) -> I16:
    found = checks.array(given, "symbols")
    if found.dtype != np.int16 or found.ndim != 2:
        raise input_error("symbols", f"{found.dtype} {found.shape}", "int16 (rows, width)")
    if found.size > MAX_SYMBOLS:
        raise input_error("symbols", f"{found.size} symbols", f"at most {MAX_SYMBOLS}")
    return np.require(found, requirements=("C", "A"))


def _choice(given: object, tables: Tables) -> U8:
    found: NDArray[Any] = checks.array(given, "choice")
    if found.dtype != np.uint8 or found.ndim != 1:
        raise input_error("choice", f"{found.dtype} {found.shape}", "uint8 (rows,)")
    if ((found >= len(tables)) & (found != SILENT)).any():
        legal = f"0 to {len(tables) - 1}, or {SILENT}"
        raise input_error("choice", f"table {found[found != SILENT].max()}", legal)
    return np.ascontiguousarray(found)


__all__ = ["BITS", "ESCAPE", "SILENT", "SLOTS", "SYMBOLS", "Tables", "decode", "encode"]
