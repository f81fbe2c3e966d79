"""Options that several commands share, and how results leave."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tqcli.blas import use_one_thread
from tqcli.errors import UsageError

if TYPE_CHECKING:
    from tqcli.plan.grammar import PlanOptions
    from tqcli.plan.plan import Plan
    from tqcli.report.result import Report

DumpPath = Annotated[
    Path, typer.Argument(metavar="DUMP", help="Dump, or the .index.json of its shards.")
]
TypeK = Annotated[
    str | None, typer.Option("-ctk", "--cache-type-k", metavar="TYPE", help="Cache type of K.")
]
TypeV = Annotated[
    str | None, typer.Option("-ctv", "--cache-type-v", metavar="TYPE", help="Cache type of V.")
]
Book = Annotated[
    str | None,
    typer.Option(
        "--codebook",
        metavar="FILE|ID",
        help="Codebook of K and V, instead of the type's own: a file, or a shipped one by id, "
        "e.g. gaussian-3bit.",
    ),
]
BookK = Annotated[
    str | None, typer.Option("--codebook-k", metavar="FILE|ID", help="Codebook of K alone.")
]
BookV = Annotated[
    str | None, typer.Option("--codebook-v", metavar="FILE|ID", help="Codebook of V alone.")
]
Rule = Annotated[
    str,
    typer.Option("--nonfinite", help="NaN and Inf: error, zero (the value), skip (the vector)."),
]
ShardSize = Annotated[
    str | None, typer.Option("--max-shard-size", help="Cut the output, e.g. 4GB or 512MiB.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", help="Threads of the kernels; default: all cores.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace existing files.")]
Format = Annotated[str, typer.Option("--format", help="table, json, csv or md.")]
Json = Annotated[bool, typer.Option("--json", help="Short for --format json.")]
Wide = Annotated[
    bool, typer.Option("--wide", help="Show every column, wider than the window if need be.")
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="A,B,C",
        help="Columns to show, by heading or JSON key (tq figures lists them).",
    ),
]
Every = Annotated[
    bool, typer.Option("--all", help="Show every row, also those that are summed up or left out.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no notes.")]
FailIf = Annotated[
    list[str] | None,
    typer.Option("--fail-if", metavar="EXPR", help="Exit 1 if it holds, e.g. 'k.p1<0.97'."),
]

Types = Annotated[
    list[str] | None,
    typer.Option(
        "-t",
        "--type",
        metavar="PLAN",
        help="Plan, e.g. turbo3, q8_0/turbo3 or turbo3+center/turbo3,keep-first=4; repeat it.",
    ),
]
Layer = Annotated[
    list[str] | None,
    typer.Option("--layer", metavar="RULE", help="Other types for layers, e.g. 0-1:k=q8_0."),
]
KeepFirst = Annotated[
    int | None,
    typer.Option("--keep-first", metavar="N", help="First N tokens of each text stay float16."),
]
KeepLast = Annotated[
    int | None,
    typer.Option("--keep-last", metavar="N", help="Last N tokens of each text stay float16."),
]
CalibrationPath = Annotated[
    Path | None,
    typer.Option("--calibration", metavar="FILE", help="Means for +center (tq calibrate)."),
]
PlanFile = Annotated[
    list[Path] | None, typer.Option("--plan", metavar="FILE", help="Plan file (JSON).")
]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def parse_size(text: str | None) -> int | None:
    """Bytes of ``4GB``, ``512MiB`` or ``1000``."""
    if text is None:
        return None
    digits = text.strip().rstrip("BKMGIbkmgi ")
    unit = text.strip()[len(digits) :].strip().upper()
    if not digits.isdecimal() or unit not in _UNITS or not int(digits):
        raise UsageError(f"--max-shard-size {text!r}; write 4GB, 512MiB or a number of bytes")
    return int(digits) * _UNITS[unit]


def plan_options(
    *,
    types: list[str] | None = None,
    cache_type_k: str | None = None,
    cache_type_v: str | None = None,
    codebook: str | None = None,
    codebook_k: str | None = None,
    codebook_v: str | None = None,
    layer: list[str] | None = None,
    keep_first: int | None = None,
    keep_last: int | None = None,
    calibration: Path | None = None,
    plan: list[Path] | None = None,
) -> PlanOptions:
    """What a command line says of cache plans."""
    from tqcli.plan.grammar import PlanOptions

    return PlanOptions(
        tuple(types or ()),
        cache_type_k,
        cache_type_v,
        tuple(layer or ()),
        keep_first,
        keep_last,
        codebook,
        codebook_k,
        codebook_v,
        calibration,
        tuple(plan or ()),
    )


def require_different(plans: list[Plan]) -> None:
    """Refuse a plan that came twice before anything is read."""
    names = [plan.name for plan in plans]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"-t {name}: came twice; give each plan once")


def use_threads(count: int | None, *, model: bool = False) -> None:
    """Let tq use `count` threads, or all cores, and BLAS one in each unless a model runs.

    Comes first in a command: BLAS looks when NumPy is imported, and never again.
    """
    if not model:
        use_one_thread()
    from tqcli import kernels

    if count is not None and count < 1:
        raise UsageError(f"--threads {count}; 1 or more is legal")
    kernels.set_threads(count)


@dataclass(frozen=True)
class Output:
    """How a report leaves: the format, and what of it a table shows."""

    form: str
    columns: tuple[str, ...]
    wide: bool
    every: bool

    def emit(self, report: Report) -> None:
        """Print a report on stdout."""
        from tqcli.report.render import render

        text = render(report, self.form, columns=self.columns, wide=self.wide, every=self.every)
        encoding = sys.stdout.encoding or "utf-8"
        # A path may hold bytes that are no text; they are shown escaped.
        try:
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has seen enough (`tq ... | head`); the exit code still speaks of the gates.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def output_of(
    command: str,
    format: str,
    json: bool,
    *,
    wide: bool = False,
    columns: str | None = None,
    every: bool = False,
) -> Output:
    """The output that the options ask for, checked before any work begins.

    Raises
    ------
    UsageError
        For an unknown format or column, or columns chosen where all are always there.
    """
    from tqcli.report.figures import find
    from tqcli.report.render import check_format

    form = "json" if json else format
    check_format(form)
    if columns is not None and form in ("json", "csv"):
        raise UsageError(f"--columns: is for tables; {form} always holds every key, leave it out")
    names = [name for name in (columns or "").split(",") if name.strip()]
    keys = tuple(find(name, command, "--columns").key for name in names)
    return Output(form, keys, wide, every)


def command_line() -> list[str]:
    """The command as typed, for the record."""
    return ["tq", *sys.argv[1:]]
