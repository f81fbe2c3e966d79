"""Tables of trellis formats: the value of every window of the bit stream, as files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError, UsageError
from tqcli.jsonfile import parse_json, read_json

SCHEMA = "tq.trellis/1"
PREFIX = "trellis-"  # of the ids of those that come with tq
_MAX_BYTES = 1 << 20
_MAX_DEVIATIONS = 1e4


@dataclass(frozen=True)
class TrellisTable:
    """The value of every window.

    Parameters
    ----------
    id : str
        Name in reports and files.
    bits : int
        Of a symbol.
    window : int
        Bits of a window, more than `bits`.
    values : tuple of float, length 2**window
        In the unit of the format: standard deviations for tq's own, values of a unit vector of
        128 for the ``_tcq`` types.
    provenance : mapping
        Where the numbers come from; JSON values only; no part of the identity.

    Raises
    ------
    InputError
        If there is another number of values, or one of them is not finite.
    """

    id: str
    bits: int
    window: int
    values: tuple[float, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Refuse what is no such table, naming what is wrong."""
        where = f"trellis table {self.id}"
        if not 1 <= self.bits < self.window <= 16:
            raise InputError(
                f"{where}: {self.bits} bits, window {self.window}; a window is longer than the "
                "bits and at most 16"
            )
        if len(self.values) != 2**self.window:
            raise InputError(
                f"{where}: {len(self.values)} values; a window of {self.window} bits has "
                f"{2**self.window}"
            )
        table = np.asarray(self.values, np.float64)
        bad = ~(np.abs(table) <= _MAX_DEVIATIONS)
        if bad.any():
            at = int(np.argmax(bad))
            raise InputError(
                f"{where}: values[{at}] is {table[at]}; finite and at most {_MAX_DEVIATIONS:.0f}"
            )
        if not table.any():
            raise InputError(f"{where}: every value is 0; it would decode all vectors to nothing")

    @property
    def sha256(self) -> str:
        """Hash of what the table *is*, not of its name."""
        return hashlib.sha256(json.dumps(self.table(), sort_keys=True).encode()).hexdigest()

    def table(self) -> dict[str, Any]:
        """The numbers as JSON values."""
        return {"bits": self.bits, "window": self.window, "values": list(self.values)}

    def array(self) -> NDArray[np.float32]:
        """The values as float32."""
        return np.asarray(self.values, np.float32)

    def dumps(self) -> str:
        """JSON text with sorted keys: equal tables give equal bytes."""
        document = {"schema": SCHEMA, "id": self.id, **self.table()}
        document["provenance"] = dict(self.provenance)
        return json.dumps(document, sort_keys=True, indent=1, allow_nan=False) + "\n"


def trellis_from(record: Mapping[str, Any], where: str) -> TrellisTable:
    """A table from JSON values: id, bits, window, values and perhaps provenance.

    Raises
    ------
    InputError
        If a field is missing, of another type, or the numbers form no table.
    """
    fields = {"id": str, "bits": int, "window": int, "values": list}
    for name, kind in fields.items():
        value = record.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InputError(
                f"{where}: trellis table field {name!r} is of type {type(value).__name__}; "
                f"{kind.__name__} is legal"
            )
    values = record["values"]
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InputError(f"{where}: trellis table holds {value!r}; numbers are legal")
    provenance = record.get("provenance", {})
    if not isinstance(provenance, dict):
        raise InputError(f"{where}: trellis table provenance is no object")
    numbers = tuple(map(float, values))
    return TrellisTable(record["id"], record["bits"], record["window"], numbers, provenance)


def read_trellis(path: str | os.PathLike[str], bits: int, window: int) -> TrellisTable:
    """Read a table: tq's JSON, or the raw little-endian float32 that forks of llama.cpp read.

    Parameters
    ----------
    path : str or path
    bits, window : int
        What the format needs; a raw file is ``4 * 2**window`` bytes.

    Raises
    ------
    InputError
        If the file is no such table; the message names the file.
    """
    name, size = os.fspath(path), 4 << window
    if _is_raw(path, size):
        raw = Path(path).read_bytes()
        values = tuple(map(float, np.frombuffer(raw, "<f4")))
        digest = {"raw_sha256": hashlib.sha256(raw).hexdigest()}
        return TrellisTable(Path(name).stem, bits, window, values, digest)
    table = _parse(read_json(path, "a trellis table", _MAX_BYTES), name)
    if (table.bits, table.window) != (bits, window):
        raise InputError(
            f"{name}: a table for {table.bits} bits and windows of {table.window}; this type "
            f"takes {bits} and {window}"
        )
    return table


def _is_raw(path: str | os.PathLike[str], size: int) -> bool:
    """Whether a regular file of `size` bytes is there that does not begin as JSON does."""
    try:
        if not Path(path).is_file() or Path(path).stat().st_size != size:
            return False
        with open(path, "rb") as file:
            return not file.read(16).lstrip().startswith(b"{")
    except OSError:
        return False  # reading it as JSON says what is wrong


def _parse(document: Any, where: str) -> TrellisTable:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        came = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise InputError(f"{where}: schema {came!r}; a trellis table has {SCHEMA!r}")
    return trellis_from(document, where)


def codebooks_folder() -> Traversable:
    """Where shipped codebooks lie: in the installed package, or beside it in a source tree."""
    installed = resources.files("tqcli") / "codebooks"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "codebooks"


@cache
def stock_trellis(bits: int) -> TrellisTable:
    """The shipped table for 2, 3 or 4 bits a value.

    Examples
    --------
    >>> len(stock_trellis(3).values)
    128
    """
    name = f"{PREFIX}{bits}bit.json"
    path = codebooks_folder() / name
    if not path.is_file():
        raise UsageError(f"trellis table of {bits} bits: not shipped; 2, 3 and 4 are")
    return _parse(parse_json(path.read_text(encoding="utf-8"), name, "a trellis table"), name)
