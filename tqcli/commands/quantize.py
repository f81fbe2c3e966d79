"""``tq quantize``: a dump into the exact bytes of a cache format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqcli.commands import common


def quantize(
    dump: common.DumpPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="Packed cache to write.")],
    cache_type_k: common.TypeK = None,
    cache_type_v: common.TypeV = None,
    codebook: common.Book = None,
    codebook_k: common.BookK = None,
    codebook_v: common.BookV = None,
    nonfinite: common.Rule = "error",
    max_shard_size: common.ShardSize = None,
    force: common.Force = False,
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
    every: common.Every = False,
    threads: common.Threads = None,
    quiet: common.Quiet = False,
) -> None:
    """Quantize K and V of a dump into a packed cache.

    The blocks are byte for byte what an engine with that cache type stores. Types default to
    turbo3 (tq types lists all).

    Example: tq quantize kv.safetensors -o packed.safetensors -ctk q8_0 -ctv turbo3
    """
    from tqcli.kv.dump import open_dump
    from tqcli.pipeline.quantize import quantize as run
    from tqcli.progress import progress_bytes
    from tqcli.report.brief import alike
    from tqcli.report.result import Report
    from tqcli.report.views import QUANTIZE

    shown = common.output_of("quantize", format, json, wide=wide, columns=columns, every=every)
    common.use_threads(threads)
    k, v = common.cache_types(cache_type_k, cache_type_v, codebook, codebook_k, codebook_v)
    with open_dump(dump) as opened:
        with progress_bytes(opened.nbytes, "quantize", quiet=quiet) as progress:
            result, rows = run(
                opened,
                output,
                k,
                v,
                nonfinite=nonfinite,  # type: ignore[arg-type]
                max_shard_bytes=common.parse_size(max_shard_size),
                force=force,
                progress=progress,
            )
        inputs = [{"path": opened.path, "fingerprint": opened.fingerprint()}]
    report = Report(
        "tq.quantize/1",
        f"{dump} -> {result}",
        QUANTIZE,
        rows,
        inputs=inputs,
        command=common.command_line(),
        extra={"output": result},
        brief=alike(rows),
    )
    shown.emit(report)
