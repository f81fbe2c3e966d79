"""One result, however it is shown: rows of figures, what they mean, and where they came from."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tqcli import kernels
from tqcli.version import __version__


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    key : str
        Of the row.
    heading : str
    style : str
        A format specification for numbers: ``.4f``, ``.3g``, ``d``, ``%`` or empty for text.
    """

    key: str
    heading: str
    style: str = ""

    def cell(self, row: Mapping[str, Any]) -> str:
        """The text of a row's cell; nothing where there is no figure."""
        value = row.get(self.key)
        if value is None:
            return ""
        if not self.style or isinstance(value, str):
            return str(value)
        if self.style == "bytes":
            return human_bytes(value)
        return format(value, self.style)


@dataclass(frozen=True)
class Report:
    """What a command has to say.

    Parameters
    ----------
    schema : str
        ``tq.evaluate/1`` and so on.
    title : str
    columns : sequence of Column
        What people see; JSON and CSV hold every key of the rows.
    rows : list of dict
    notes : sequence of str
        One line each, below the table.
    inputs : list of dict
        ``path`` and ``fingerprint`` of what was read.
    command : sequence of str
        The command line.
    extra : mapping
        Further keys of the JSON.
    """

    schema: str
    title: str
    columns: Sequence[Column]
    rows: list[dict[str, Any]]
    notes: Sequence[str] = ()
    inputs: Sequence[Mapping[str, Any]] = ()
    command: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        return {
            "schema": self.schema,
            "tq": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "kernel": kernels.active(),
            "command": list(self.command),
            "inputs": [dict(i) for i in self.inputs],
            "rows": self.rows,
            "notes": list(self.notes),
            **self.extra,
        }


def human_bytes(count: float) -> str:
    """Bytes in binary units: ``4.0 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
