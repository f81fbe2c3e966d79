"""Reports that were saved as JSON, read back for comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqcli.errors import InputError
from tqcli.jsonfile import read_json
from tqcli.report.figures import ROWS

_SCHEMAS = ("tq.evaluate/1", "tq.compare/1")
_MAX_BYTES = 256 << 20
_FIGURES = {key for key, figure in ROWS.items() if figure.is_number}


def read_reports(
    paths: Sequence[Path], *, force: bool = False
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Pooled rows of several saved reports, each named after its file.

    Raises
    ------
    InputError
        If a file is no report, or reports speak of different dumps and `force` is not given.
    """
    rows: list[dict[str, Any]] = []
    inputs: list[dict[str, Any]] = []
    for path in paths:
        document = _read(path)
        inputs.append(document["inputs"][0])
        if inputs[-1].get("fingerprint") != inputs[0].get("fingerprint") and not force:
            raise InputError(
                f"{path}: speaks of {inputs[-1].get('path')}, {paths[0]} of "
                f"{inputs[0].get('path')}, which hold other tensors; compare reports of one dump "
                "or pass --force"
            )
        for number, row in enumerate(document["rows"]):
            if row.get("layer") == "all":
                _check_row(f"{path}: row {number}", row)
                name = f"{path.stem}: {row.get('name') or row.get('type') or 'dump'}"
                rows.append({**row, "name": name})
    return rows, inputs


def _read(path: Path) -> dict[str, Any]:
    document = read_json(path, "a report saved with --json", _MAX_BYTES)
    if not isinstance(document, dict) or document.get("schema") not in _SCHEMAS:
        came = document.get("schema") if isinstance(document, dict) else type(document).__name__
        raise InputError(f"{path}: schema {came!r}; {' and '.join(_SCHEMAS)} are compared")
    rows, inputs = document.get("rows"), document.get("inputs")
    if (
        not isinstance(rows, list)
        or not all(isinstance(row, dict) for row in rows)
        or not isinstance(inputs, list)
        or not inputs
        or not isinstance(inputs[0], dict)
    ):
        raise InputError(f"{path}: the report lacks rows or inputs; save it anew with --json")
    return document


def _check_row(where: str, row: Mapping[str, Any]) -> None:
    """Refuse a pooled row whose values are not of the types that tq writes."""
    if row.get("side") not in ("k", "v"):
        raise InputError(f"{where}: side {row.get('side')!r}; k and v are legal")
    for key, value in row.items():
        figure = isinstance(value, int | float) and not isinstance(value, bool)
        text = isinstance(value, str) and value.isprintable() and key not in _FIGURES
        if not (value is None or figure or text):
            legal = "a number is" if key in _FIGURES else "text and numbers are"
            raise InputError(
                f"{where}: {key} is {type(value).__name__} {value!r:.40}; {legal} legal, save the "
                "report anew with --json"
            )
