"""Plan files: one JSON document, schema ``tq.plan/1``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqcli.errors import InputError, UsageError
from tqcli.jsonfile import read_json
from tqcli.plan.calibration import open_calibration
from tqcli.plan.plan import Plan
from tqcli.plan.references import Book, CalibrationFile, reference, require_same, resolve
from tqcli.plan.rules import parse_rule
from tqcli.plan.types import SIDES, Side, parse_type

SCHEMA = "tq.plan/1"
_MAX_BYTES = 1 << 20
_KEYS = {
    "schema", "k", "v", "layers", "keep_first", "keep_last", "codebooks", "calibration", "label",
}  # fmt: skip


def to_json(plan: Plan) -> dict[str, Any]:
    """A plan as a JSON object, with the paths of the files that it leans on."""
    document: dict[str, Any] = {"schema": SCHEMA, "k": str(plan.k), "v": str(plan.v)}
    books = {side: getattr(plan, side).codebook for side in SIDES}
    parts = {
        "layers": [str(rule) for rule in plan.rules],
        "keep_first": plan.keep_first,
        "keep_last": plan.keep_last,
        "codebooks": {side: reference(book) for side, book in books.items() if book},
        "calibration": None if plan.calibration is None else reference(plan.calibration),
        "label": plan.label,
    }
    return document | {key: value for key, value in parts.items() if value}


def dumps(plan: Plan) -> str:
    """The text of a plan file: equal plans give equal bytes."""
    return json.dumps(to_json(plan), sort_keys=True, indent=1) + "\n"


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read and check a plan file; relative paths in it begin at its folder.

    Raises
    ------
    InputError
        If it is no plan file, or a file that it leans on is not the one that it names.
    """
    where = os.fspath(path)
    document = read_json(path, "a plan file", _MAX_BYTES)
    try:
        return from_json(document, Path(path).parent)
    except (InputError, UsageError) as error:
        raise InputError(f"{where}: {error}") from error


def from_json(document: Any, folder: Path = Path()) -> Plan:
    """The plan that a JSON object describes; inverse of :func:`to_json`.

    Parameters
    ----------
    document : Any
        Parsed JSON of unknown origin.
    folder : Path
        Where relative paths begin.

    Raises
    ------
    InputError, UsageError
        It describes none.
    """
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        came = document.get("schema") if isinstance(document, Mapping) else type(document).__name__
        raise InputError(f"schema {came!r}; a plan file is {SCHEMA!r}")
    if unknown := sorted(set(document) - _KEYS):
        raise InputError(f"key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    rules = _typed(document, "layers", list, [])
    books = _typed(document, "codebooks", dict, {})
    types = {
        side: parse_type(_typed(document, side, str), side, _book(books, side, folder))
        for side in SIDES
    }
    return Plan(
        types["k"],
        types["v"],
        tuple(parse_rule(_typed({"layers": rule}, "layers", str)) for rule in rules),
        _typed(document, "keep_first", int, 0),
        _typed(document, "keep_last", int, 0),
        _calibration(document.get("calibration"), folder),
        _typed(document, "label", str, ""),
    )


def _typed(document: Mapping[str, Any], key: str, wanted: type, default: Any = None) -> Any:
    value = document.get(key, default)
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise InputError(f"{key}: {value!r}; it is of type {wanted.__name__}")
    return value


def _book(books: Mapping[str, Any], side: Side, folder: Path) -> Book | None:
    if side not in books:
        return None
    path, promised = resolve(books[side], f"codebooks.{side}", folder)
    book = Book.read(path)
    require_same(path, promised, book.checksum)
    return book


def _calibration(data: Any, folder: Path) -> CalibrationFile | None:
    if data is None:
        return None
    path, promised = resolve(data, "calibration", folder)
    with open_calibration(path) as opened:
        found = opened.reference()
    require_same(path, promised, found.checksum)
    return found
