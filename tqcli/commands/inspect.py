"""``tq inspect``: what is in this file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqcli.commands import common


def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Dump, packed cache or codebook.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read everything and check the hashes.")
    ] = False,
    format: common.Format = "table",
    json: common.Json = False,
    quiet: common.Quiet = False,
) -> None:
    """Say what a dump, packed cache or codebook holds, from its header alone.

    Example: tq inspect packed.safetensors --verify
    """
    from tqcli.pipeline.inspect import inspect_path
    from tqcli.progress import progress_bytes
    from tqcli.report.result import Report
    from tqcli.report.views import INSPECT

    size = path.stat().st_size if verify and path.is_file() else 0
    with progress_bytes(size, "verify", quiet=quiet or not verify) as progress:
        found = inspect_path(path, verify=verify, progress=progress)
    report = Report(
        "tq.inspect/1",
        f"{path}: {found.kind}",
        INSPECT,
        found.rows,
        notes=found.notes,
        inputs=[{"path": str(path)}],
        command=common.command_line(),
        extra={"kind": found.kind, "metadata": found.metadata},
    )
    common.emit(report, format, json=json)
