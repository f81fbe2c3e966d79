"""One result, however it is shown: rows of figures, what they mean, and where they came from."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tqcli import kernels
from tqcli.report.figures import ROWS, Figure
from tqcli.version import __version__
from tqcli.words import counted

Row = dict[str, Any]


@dataclass(frozen=True)
class Brief:
    """Rows for one screen instead of all, and what they are in words."""

    rows: Sequence[Row]
    words: str


@dataclass(frozen=True)
class Report:
    """What a command has to say.

    Parameters
    ----------
    schema : str
        ``tq.evaluate/1`` and so on.
    title : str
    columns : sequence of str
        Keys that a table shows; JSON and CSV hold every key of the rows.
    rows : list of dict
        With keys of :data:`tqcli.report.figures.ROWS`.
    notes : sequence of str
        One line each, below the table.
    inputs : list of dict
        ``path`` and ``fingerprint`` of what was read.
    command : sequence of str
        The command line.
    extra : mapping
        Further keys of the JSON.
    brief : Brief, optional
        What a table shows unless every row is asked for.
    """

    schema: str
    title: str
    columns: Sequence[str]
    rows: list[Row]
    notes: Sequence[str] = ()
    inputs: Sequence[Mapping[str, Any]] = ()
    command: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    brief: Brief | None = None

    def __repr__(self) -> str:
        """``<report tq.evaluate/1: 10 rows>``."""
        return f"<report {self.schema}: {counted(len(self.rows), 'row')}>"

    def figures(self, chosen: Sequence[str] = ()) -> list[Figure]:
        """Columns of the table: those with a figure somewhere, and not a count of nothing.

        What identifies a row stands first and the verdict stays, whatever is chosen.
        """
        shown = [ROWS[key] for key in self.columns]
        if chosen:
            fixed = [figure for figure in shown if not figure.rank]
            last = [figure for figure in fixed if figure.key == "verdict"]
            added = [ROWS[key] for key in dict.fromkeys(chosen) if ROWS[key] not in fixed]
            shown = [figure for figure in fixed if figure not in last] + added + last
        return [f for f in shown if any(self._says(f, row, bool(chosen)) for row in self.rows)]

    @staticmethod
    def _says(figure: Figure, row: Row, asked: bool) -> bool:
        value = row.get(figure.key)
        return bool(value) if figure.adds and not asked else value is not None

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
