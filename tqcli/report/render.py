"""Reports as text: table for people, JSON and CSV for programs, Markdown for pages."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

from tqcli.errors import UsageError
from tqcli.report.result import Report

# What a table is wrapped to where no terminal says how wide it is.
_WIDTH = 160


def as_json(report: Report) -> str:
    """The whole document; NaN never occurs, since JSON has none."""
    return json.dumps(report.document(), indent=1, allow_nan=False) + "\n"


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
    table = Table(title=report.title, box=SIMPLE_HEAD, title_justify="left", title_style="bold")
    columns = _shown(report)
    for column in columns:
        # Names may fold, figures never do.
        table.add_column(
            column.heading,
            justify="right" if column.style else "left",
            no_wrap=bool(column.style),
            overflow="fold",
        )
    for row in report.rows:
        style = "bold" if row.get("layer") == "all" else None
        table.add_row(*(Text(c.cell(row)) for c in columns), style=style)
    with console.capture() as capture:
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
