"""Reports that were saved as JSON, read back for comparison."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqcli.errors import InputError

_SCHEMAS = ("tq.evaluate/1", "tq.compare/1")
_MAX_BYTES = 256 << 20


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
        if inputs[-1].get("sha256") != inputs[0].get("sha256") and not force:
            raise InputError(
                f"{path}: speaks of {inputs[-1].get('path')}, {paths[0]} of "
                f"{inputs[0].get('path')}, which hold other tensors; compare reports of one dump "
                "or pass --force"
            )
        for row in document["rows"]:
            if row.get("layer") == "all":
                rows.append(dict(row))
                rows[-1]["name"] = f"{path.stem}: {row.get('name') or row.get('type') or 'dump'}"
    return rows, inputs


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: not a regular file of at most {_MAX_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON report ({error}); save one with --json") from error
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
