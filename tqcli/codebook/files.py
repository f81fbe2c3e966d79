"""Codebook files: one JSON document holding one table, or one per side, layer or head."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tqcli.codebook.exact import Distribution, lloyd_max
from tqcli.codebook.table import Codebook
from tqcli.codebook.trellis import PREFIX, codebooks_folder
from tqcli.errors import InputError, UsageError
from tqcli.jsonfile import parse_json, read_json
from tqcli.words import counted, suggest

SCHEMA = "tq.codebook/1"
POOLED = "*"
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class CodebookSet:
    """Tables by where they apply.

    Parameters
    ----------
    id : str
    tables : mapping of str to Codebook
        Keys, most specific first: ``layers.3.k.heads.1``, ``layers.3.heads.1``, ``layers.3.k``,
        ``layers.3``, ``k``, ``*``. All tables have the same bits and unit.
    provenance : mapping
        How the set was made.
    """

    id: str
    tables: Mapping[str, Codebook]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an empty set and one whose tables do not fit together."""
        if not self.tables:
            raise InputError(f"codebook {self.id}: no tables; at least one is needed")
        if len({(b.bits, b.dim) for b in self.tables.values()}) > 1:
            raise InputError(f"codebook {self.id}: tables differ in bits or dim; they must agree")

    def __repr__(self) -> str:
        """``<codebook set mine: 4 tables of 3 bits>``."""
        sizes = counted(len(self.tables), "table"), counted(self.bits, "bit")
        return f"<codebook set {self.id}: {' of '.join(sizes)}>"

    @property
    def bits(self) -> int:
        """Bits of every table."""
        return next(iter(self.tables.values())).bits

    @property
    def per_head(self) -> bool:
        """True if any table is for one head alone."""
        return any(".heads." in key for key in self.tables)

    def find(self, layer: int, side: str, head: int | None = None) -> Codebook:
        """The most specific table for a layer, side (``k`` or ``v``) and head.

        Raises
        ------
        InputError
            If no key covers the place.
        """
        place = f"layers.{layer}"
        keys = [f"{place}.{side}", place, side, POOLED]
        if head is not None:
            keys = [f"{place}.{side}.heads.{head}", f"{place}.heads.{head}", *keys]
        for key in keys:
            if key in self.tables:
                return self.tables[key]
        where = f"{place}.{side}" + ("" if head is None else f" head {head}")
        have = ", ".join(list(self.tables)[:4])
        raise InputError(f"codebook {self.id}: no table for {where}; it has {have}")


def dumps(book: CodebookSet) -> str:
    """JSON text with sorted keys: equal sets give equal bytes."""
    first = next(iter(book.tables.values()))
    document = {
        "schema": SCHEMA,
        "id": book.id,
        "bits": first.bits,
        "dim": first.dim,
        "tables": {
            key: {"centroids": list(t.centroids), "boundaries": list(t.boundaries)}
            | ({"provenance": dict(t.provenance)} if t.provenance else {})
            for key, t in book.tables.items()
        },
        "provenance": dict(book.provenance),
    }
    return json.dumps(document, sort_keys=True, indent=1, allow_nan=False) + "\n"


def exact_set(distribution: Distribution, bits: int, dim: int = 128) -> CodebookSet:
    """The optimal codebook of a density as a file's content, with the command that makes it."""
    book, error = lloyd_max(distribution, bits, dim)
    options = f"--distribution {distribution} --bits {bits}"
    if distribution == "sphere":
        options += f" --dim {dim}"
    made_by = f"tq fit-codebook {options} -o {book.id}.json"
    return CodebookSet(book.id, {POOLED: book}, {"made_by": made_by, "distortion": error})


def read_codebook(path: str | os.PathLike[str]) -> CodebookSet:
    """Read and check a codebook file.

    Raises
    ------
    InputError
        If the file is no codebook; the message names the file and the entry.
    """
    return _parse(read_json(path, "a codebook", _MAX_BYTES), os.fspath(path))


def loads(text: str, where: str) -> CodebookSet:
    """Parse the JSON text of a codebook file; `where` names it in errors."""
    return _parse(parse_json(text, where, "a codebook"), where)


def _parse(document: Any, where: str) -> CodebookSet:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        came = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise InputError(f"{where}: schema {came!r}; this version reads {SCHEMA!r}")
    try:
        shared = {key: document.get(key) for key in ("id", "bits", "dim")}
        tables = {
            key: table_from({**_of_type(table, dict, key), **shared}, key)
            for key, table in _of_type(document.get("tables"), dict, "tables").items()
        }
        provenance = _of_type(document.get("provenance", {}), dict, "provenance")
        return CodebookSet(_of_type(document.get("id"), str, "id"), tables, provenance)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def table_from(record: Mapping[str, Any], key: str = POOLED) -> Codebook:
    """A codebook from JSON values: id, bits, dim, centroids, boundaries and perhaps provenance.

    Nothing is converted but whole numbers to floats.

    Raises
    ------
    InputError
        If a field is missing, of another type, or the numbers form no codebook.
    """
    name = _of_type(record.get("id"), str, "id")
    return Codebook(
        name if key == POOLED else f"{name}:{key}",
        _of_type(record.get("bits"), int, "bits"),
        _of_type(record.get("dim"), int, "dim"),
        _numbers(record.get("centroids"), "centroids"),
        _numbers(record.get("boundaries"), "boundaries"),
        _of_type(record.get("provenance", {}), dict, "provenance"),
    )


def _of_type(value: Any, wanted: type, name: str) -> Any:
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise InputError(
            f"codebook field {name!r} is of type {type(value).__name__}; {wanted.__name__} is legal"
        )
    return value


def _numbers(values: Any, name: str) -> tuple[float, ...]:
    numbers = _of_type(values, list, name)
    for value in numbers:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InputError(f"codebook field {name!r} holds {value!r}; numbers are legal")
    return tuple(map(float, numbers))


def shipped() -> list[str]:
    """Ids of the codebooks that come with tq, trellis tables aside."""
    names = (f.name[:-5] for f in codebooks_folder().iterdir() if f.name.endswith(".json"))
    return sorted(name for name in names if not name.startswith(PREFIX))


def _shipped(name: str) -> CodebookSet:
    return loads((codebooks_folder() / f"{name}.json").read_text(encoding="utf-8"), f"{name}.json")


def find_codebook(name: str) -> CodebookSet:
    """Read a codebook file, or a shipped codebook by its id.

    Raises
    ------
    UsageError
        If there is neither.
    InputError
        If the file is no codebook.

    Examples
    --------
    >>> find_codebook("gaussian-3bit").bits
    3
    """
    known = shipped()
    if name in known and not os.path.exists(name):
        return _shipped(name)
    if name.endswith(".json") or os.path.exists(name):
        return read_codebook(name)
    raise UsageError(
        f"codebook {name!r}: neither a file nor the id of a shipped codebook"
        f"{suggest(name, known, 'tq types')}"
    )


@cache
def stock(name: str) -> Codebook:
    """A shipped codebook by id.

    Examples
    --------
    >>> stock("turbo-3bit").centroids[-1]
    0.190207
    """
    if name not in shipped():
        raise UsageError(f"codebook {name!r}: not shipped{suggest(name, shipped(), 'tq types')}")
    return _shipped(name).tables[POOLED]
