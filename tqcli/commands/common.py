"""Options that several commands share, and how results leave."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tqcli.blas import use_one_thread
from tqcli.errors import UsageError

if TYPE_CHECKING:
    from tqcli.pipeline.cachetype import CacheType
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
    Path | None, typer.Option("--codebook", help="Codebook file for K and V, instead of the stock.")
]
BookK = Annotated[Path | None, typer.Option("--codebook-k", help="Codebook file for K.")]
BookV = Annotated[Path | None, typer.Option("--codebook-v", help="Codebook file for V.")]
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
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no notes.")]
FailIf = Annotated[
    list[str] | None,
    typer.Option("--fail-if", metavar="EXPR", help="Exit 1 if it holds, e.g. 'k.p1<0.97'."),
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


def cache_types(
    k: str | None,
    v: str | None,
    codebook: Path | None = None,
    codebook_k: Path | None = None,
    codebook_v: Path | None = None,
) -> tuple[CacheType, CacheType]:
    """The two cache types of ``-ctk``, ``-ctv`` and the codebook options; turbo3 by default."""
    from tqcli.codebook import read_codebook
    from tqcli.pipeline.cachetype import CacheType

    if codebook is not None and (codebook_k is not None or codebook_v is not None):
        raise UsageError("--codebook serves both sides; leave --codebook-k and --codebook-v out")
    path_k, path_v = codebook_k or codebook, codebook_v or codebook
    book_k = None if path_k is None else read_codebook(path_k)
    book_v = None if path_v is None else (book_k if path_v == path_k else read_codebook(path_v))
    return CacheType(k or "turbo3", book_k), CacheType(v or "turbo3", book_v)


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


def emit(report: Report, form: str, *, json: bool = False) -> None:
    """Print a report on stdout."""
    from tqcli.report.render import render

    text = render(report, "json" if json else form)
    encoding = sys.stdout.encoding or "utf-8"
    # A path may hold bytes that are no text; they are shown escaped.
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough (`tq ... | head`); the exit code still speaks of the gates.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def command_line() -> list[str]:
    """The command as typed, for the record."""
    return ["tq", *sys.argv[1:]]
