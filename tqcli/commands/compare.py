"""``tq compare``: several types on one dump, or several saved reports, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqcli.commands import common
from tqcli.errors import UsageError

DEFAULT_TYPES = ("turbo3", "turbo2", "turbo4", "q4_0", "q4_0+rot", "q8_0", "f16")


def compare(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="DUMP | REPORT.json ...", help="One dump, or reports.")
    ],
    types: Annotated[
        list[str] | None,
        typer.Option(
            "-t", "--type", metavar="TYPE[/VTYPE]", help="Type of K and V, or K/V; repeat it."
        ),
    ] = None,
    fail_if: common.FailIf = None,
    nonfinite: common.Rule = "error",
    force: Annotated[
        bool, typer.Option("--force", help="Compare reports of different dumps.")
    ] = False,
    format: common.Format = "table",
    json: common.Json = False,
    threads: common.Threads = None,
    quiet: common.Quiet = False,
) -> None:
    """Put cache types side by side on one dump, or saved reports.

    The first type is what the others are held against. Reports are those that tq evaluate --json
    wrote; they must speak of the same dump.

    Example: tq compare kv.safetensors -t turbo3 -t q8_0/turbo3 -t turbo4@2026-03
    """
    from tqcli.report.gate import apply_gates, parse_gate
    from tqcli.report.result import Report
    from tqcli.report.views import COMPARE, explain_comparison

    common.use_threads(threads)
    gates = [parse_gate(text) for text in fail_if or []]
    if all(
        path.name.endswith(".json") and not path.name.endswith(".index.json") for path in inputs
    ):
        if types:
            raise UsageError("-t needs a dump; reports already hold their types")
        from tqcli.report.saved import read_reports

        rows, used = read_reports(inputs, force=force)
    else:
        if len(inputs) > 1:
            raise UsageError(f"{len(inputs)} dumps; give one dump with -t, or several reports")
        rows, used = _measure(inputs[0], types or list(DEFAULT_TYPES), nonfinite, quiet)
    report = Report(
        "tq.compare/1",
        " ".join(str(path) for path in inputs),
        COMPARE,
        rows,
        notes=explain_comparison(rows),
        inputs=used,
        command=common.command_line(),
    )
    common.emit(report, format, json=json)
    apply_gates(gates, rows)


def _measure(
    path: Path, types: list[str], nonfinite: str, quiet: bool
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    from tqcli.kv.dump import open_dump
    from tqcli.pipeline.cachetype import CacheType, parse_pair
    from tqcli.pipeline.compare import compare as run
    from tqcli.progress import progress_bytes

    pairs = [tuple(CacheType(name) for name in parse_pair(text)) for text in types]
    with open_dump(path) as dump:
        total = dump.nbytes * len(pairs)
        with progress_bytes(total, "compare", quiet=quiet) as progress:
            rows = run(
                dump,
                [(k, v) for k, v in pairs],
                nonfinite=nonfinite,  # type: ignore[arg-type]
                progress=progress,
            )
        return rows, [{"path": dump.path, "sha256": dump.fingerprint()}]
