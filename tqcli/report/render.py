"""Reports as text: table for people, JSON and CSV for programs, Markdown for pages."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tqcli.errors import UsageError
from tqcli.report.result import Report, Row
from tqcli.report.table import fit, heading, line
from tqcli.words import counted

if TYPE_CHECKING:
    from rich.text import Text

FORMATS = ("table", "json", "csv", "md")
# Dark enough for a white window and light enough for a black one; the word says the same.
VERDICT_STYLES = {"fine": "color(28)", "degraded": "color(130)", "collapse": "bold color(160)"}


def check_format(form: str) -> None:
    """Raise :class:`UsageError` for a format that is none."""
    if form not in FORMATS:
        raise UsageError(f"--format {form}; {', '.join(FORMATS)} are legal")


def render(
    report: Report,
    form: str,
    *,
    columns: Sequence[str] = (),
    wide: bool = False,
    every: bool = False,
) -> str:
    """The report as text.

    Parameters
    ----------
    report : Report
    form : {"table", "json", "csv", "md"}
        JSON and CSV hold every key of every row, whatever the other arguments say.
    columns : sequence of str
        Keys to show in a table instead of the report's own choice.
    wide : bool
        Leave no column out, however narrow the terminal.
    every : bool
        Show every row where the report has a brief form.
    """
    check_format(form)
    if form == "json":
        return as_json(report)
    if form == "csv":
        return as_csv(report)
    if form == "md":
        return as_markdown(report, columns, every=every)
    return as_table(report, columns, wide=wide, every=every)


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


def as_markdown(report: Report, columns: Sequence[str] = (), *, every: bool = False) -> str:
    """A pipe table with the title above and the notes below; no column is left out."""
    figures = report.figures(columns)
    rows, hidden = _rows(report, every)
    lines = [f"**{report.title}**", "", _pipe([f.title for f in figures])]
    lines.append(_pipe(["---:" if f.is_number else "---" for f in figures]))
    lines += [_pipe([f.cell(row) for f in figures]) for row in rows]
    if notes := [*hidden, *report.notes]:
        lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def _pipe(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def as_table(
    report: Report, columns: Sequence[str] = (), *, wide: bool = False, every: bool = False
) -> str:
    """Title, table and notes, no wider than the terminal; in a pipe or file as wide as it gets.

    Columns that do not fit are left out whole and named below the table.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    room = console.width if console.is_terminal else None
    rows, hidden = _rows(report, every)
    with console.capture() as capture:
        console.print(Text(_wrap(report.title, room), style="bold"))
        left_out: Sequence[str] = ()
        if rows and (figures := report.figures(columns)):
            layout = fit(figures, rows, None if wide or columns else room)
            left_out = [figure.title for figure in layout.left_out]
            rule = "─" if console.encoding.startswith("utf") else "-"
            console.print()
            for text in heading(layout):
                console.print(Text(text, style="bold"))
            console.print(rule * layout.width)
            for row in rows:
                for cells in line(layout, row):
                    console.print(_styled(cells, row))
        notes = [*hidden, *([_LEFT_OUT.format(", ".join(left_out))] if left_out else [])]
        for at, part in enumerate((notes, report.notes)):
            if part:
                console.print()
            for note in part:
                console.print(_styled_note(_wrap(note, room, "  "), verdict=at == 1))
    return "\n".join(text.rstrip() for text in capture.get().splitlines()) + "\n"


_LEFT_OUT = "Too narrow for: {}. See them with --wide, --columns a,b,c or a wider window."


def _rows(report: Report, every: bool) -> tuple[Sequence[Row], list[str]]:
    """The rows to show, and a line on those that are not."""
    brief = report.brief
    if every or brief is None or len(brief.rows) >= len(report.rows):
        return report.rows, []
    total = counted(len(report.rows), "row")
    return brief.rows, [f"{len(brief.rows)} of {total}: {brief.words}; --all shows every one."]


def _wrap(text: str, room: int | None, indent: str = "") -> str:
    """Lines for a terminal; a path longer than one is left to it, so that it can be copied."""
    if room is None:
        return text
    return "\n".join(
        textwrap.wrap(
            text,
            room,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def _styled(cells: list[tuple[str, str]], row: Row) -> Text:
    from rich.text import Text

    total = "all" in (row.get("layer"), row.get("tensor"))
    text = Text(style="bold" if total else "")
    for at, (key, cell) in enumerate(cells):
        style = VERDICT_STYLES.get(cell.strip(), "") if key == "verdict" else ""
        text.append("  " if at else "").append(cell, style=style)
    text.rstrip()
    return text


def _styled_note(note: str, *, verdict: bool) -> Text:
    """The words of the verdict in its colour, where a note speaks of it first."""
    from rich.text import Text

    text = Text(note)
    if verdict and note.startswith("verdict: "):
        for word, style in VERDICT_STYLES.items():
            if note.startswith(f"verdict: {word}"):
                text.stylize(style, len("verdict: "), len(f"verdict: {word}"))
    return text
