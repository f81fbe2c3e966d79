"""``tq unpack``: a packed cache back into floats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqcli.commands import common
from tqcli.errors import UsageError


def unpack(
    packed: Annotated[Path, typer.Argument(metavar="PACKED", help="Packed cache.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Dump to write.")],
    domain: Annotated[
        str, typer.Option("--domain", help="original, rotated (as kernels read it) or codes.")
    ] = "original",
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float16, bfloat16, float32; default: as dumped.")
    ] = None,
    max_shard_size: common.ShardSize = None,
    force: common.Force = False,
    threads: common.Threads = None,
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
    every: common.Every = False,
    quiet: common.Quiet = False,
) -> None:
    """Decode a packed cache into a dump.

    Example: tq unpack packed.safetensors -o back.safetensors --dtype float32
    """
    import ml_dtypes
    import numpy as np

    from tqcli.kv.packed import open_packed
    from tqcli.pipeline.unpack import rows as rows_of
    from tqcli.pipeline.unpack import unpack as run
    from tqcli.progress import progress_bytes
    from tqcli.report.brief import alike
    from tqcli.report.result import Report
    from tqcli.report.views import UNPACK

    shown = common.output_of("unpack", format, json, wide=wide, columns=columns, every=every)
    common.use_threads(threads)
    dtypes = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
    if domain not in ("original", "rotated", "codes"):
        raise UsageError(f"--domain {domain}; original, rotated and codes are legal")
    if dtype is not None and dtype not in dtypes:
        raise UsageError(f"--dtype {dtype}; {', '.join(dtypes)} are legal")
    chosen = None if dtype is None else np.dtype(dtypes[dtype])
    with (
        open_packed(packed) as opened,
        progress_bytes(opened.nbytes, "unpack", quiet=quiet) as progress,
    ):
        result = run(
            opened,
            output,
            domain=domain,  # type: ignore[arg-type]
            dtype=chosen,
            max_shard_bytes=common.parse_size(max_shard_size),
            force=force,
            progress=progress,
        )
        rows = rows_of(opened, domain, chosen)  # type: ignore[arg-type]
    report = Report(
        "tq.unpack/1",
        f"{packed} -> {result}: {domain} domain",
        UNPACK,
        rows,
        inputs=[{"path": str(packed)}],
        command=common.command_line(),
        extra={"output": result},
        brief=alike(rows),
    )
    shown.emit(report)
