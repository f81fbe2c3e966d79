"""Reports as text: table for people, JSON and CSV for programs, Markdown for pages."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from typing import Any

from tqcli.errors import UsageError
from tqcli.report.result import Report

# What a table is wrapped to where no terminal says how wide it is.
_WIDTH = 160
# Characters that a column of names keeps when there is too little room.
_MIN_TEXT = 10


def as_json(report: Report) -> str:
    """The whole document; a figure that is no finite number is null, since JSON has no other."""
    return json.dumps(_finite(report.document()), indent=1, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_csv(report: Report) -> str:
    """Every key of the rows, one line a row."""
    keys = list(dict.fromkeys(key for row in report.rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(report.rows)
    return out.getvalue()


def as_markdown(report: Report) -> str:
    """A pipe table with the title above and the notes below."""
    columns = _shown(report)
    lines = [f"**{report.title}**", "", _pipe([c.heading for c in columns])]
    lines.append(_pipe(["---:" if c.style else "---" for c in columns]))
    lines += [_pipe([c.cell(row) for c in columns]) for row in report.rows]
    if report.notes:
        lines += ["", *(f"- {note}" for note in report.notes)]
    return "\n".join(lines) + "\n"


def _pipe(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_table(report: Report) -> str:
    """A table by `rich`, as wide as the terminal, with the notes below it."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    table = Table(box=SIMPLE_HEAD)
    columns = _shown(report)
    for column in columns:
        # Names may fold, but not away; figures never do.
        longest = max(len(column.cell(row)) for row in report.rows)
        table.add_column(
            column.heading,
            justify="right" if column.style else "left",
            no_wrap=bool(column.style),
            overflow="fold",
            min_width=min(longest, _MIN_TEXT),
        )
    for row in report.rows:
        style = "bold" if row.get("layer") == "all" else None
        table.add_row(*(Text(c.cell(row)) for c in columns), style=style)
    with console.capture() as capture:
        # Above the table and not its title, which would fold to the width of a narrow one.
        console.print(Text(report.title, style="bold"), soft_wrap=True)
        console.print(table)
        for note in report.notes:
            console.print(Text(note), soft_wrap=True)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _shown(report: Report) -> list[Any]:
    """Columns that have a figure somewhere."""
    return [c for c in report.columns if any(row.get(c.key) is not None for row in report.rows)]


FORMATS: dict[str, Callable[[Report], str]] = {
    "table": as_table,
    "json": as_json,
    "csv": as_csv,
    "md": as_markdown,
}


def render(report: Report, form: str) -> str:
    """The report in one of :data:`FORMATS`."""
    if form not in FORMATS:
        raise UsageError(f"--format {form}; {', '.join(FORMATS)} are legal")
    return FORMATS[form](report)
