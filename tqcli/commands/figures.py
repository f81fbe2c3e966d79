"""``tq figures``: every figure of every report."""

from __future__ import annotations

from typing import Annotated

import typer

from tqcli.commands import common
from tqcli.errors import UsageError


def figures(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Headings or JSON keys; default: all."),
    ] = None,
    report: Annotated[
        str | None, typer.Option("--report", metavar="COMMAND", help="Those of one command alone.")
    ] = None,
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
) -> None:
    """Explain the columns of all tables, which are the keys of the JSON.

    A heading is the key with spaces for underscores; --fail-if and --columns take either.

    Example: tq figures nmse 'centred nmse'
    """
    from tqcli.report.figures import REPORTS, entries
    from tqcli.report.result import Report
    from tqcli.report.views import FIGURES
    from tqcli.words import suggest

    shown = common.output_of("figures", format, json, wide=wide, columns=columns)
    if report is not None and report not in REPORTS:
        raise UsageError(f"--report {report}: no command with a report{suggest(report, REPORTS)}")
    rows = entries(names or (), report)
    about = "all reports" if report is None else f"the report of tq {report}"
    out = Report(
        "tq.figures/1",
        f"figures of {about}",
        FIGURES,
        rows,
        notes=["A heading is the key with spaces for underscores; null_ is headed gaussian."],
        command=common.command_line(),
    )
    shown.emit(out)
