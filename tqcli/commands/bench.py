"""``tq bench``: how fast the kernels are on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from tqcli.blas import use_one_thread
from tqcli.commands import common
from tqcli.errors import UsageError


def bench(
    cache_type: Annotated[
        str, typer.Option("-t", "--type", metavar="TYPE", help="Turbo type to measure.")
    ] = "turbo3",
    kernel: Annotated[
        list[str] | None, typer.Option("--kernel", help="Kernel to measure; default: all usable.")
    ] = None,
    operation: Annotated[
        list[str] | None,
        typer.Option(
            "--operation",
            help="Operation to measure: encode, decode, decode rotated, pack, unpack, scores, "
            "scores int8, weighted sum ...; default: all.",
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option("--dtype", help="float32, float16, bfloat16; default: all.")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option("--threads", help="Threads; repeat it. Default: 1.")
    ] = None,
    vectors: Annotated[
        int, typer.Option("--vectors", help="Vectors in the arrays; the default is past the cache.")
    ] = 131_072,
    repeats: Annotated[int, typer.Option("--repeats", help="Runs to take the median of.")] = 7,
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
    quiet: common.Quiet = False,
) -> None:
    """Time every operation of every kernel beside memcpy of the same array.

    All runs share one process and take turns, so that only ratios between rows are to be trusted
    on a busy machine. Values per second count values of vectors, whatever their bytes.

    Example: tq bench --operation encode --operation decode --threads 1 --threads 2
    """
    use_one_thread()  # the products of the NumPy kernel count as well
    from tqcli.codecs import codec
    from tqcli.codecs.group import GroupCodec
    from tqcli.kernels.measure import DEFAULT, measure
    from tqcli.progress import progress_bytes
    from tqcli.report.result import Report
    from tqcli.report.views import BENCH

    shown = common.output_of("bench", format, json, wide=wide, columns=columns)
    made = codec(cache_type)
    if not isinstance(made, GroupCodec):
        raise UsageError(f"{cache_type}: has no native kernels; turbo and trellis types have")
    with progress_bytes(repeats + 1, "bench", unit=" runs", quiet=quiet) as step:
        rows = measure(
            made.layout,
            vectors=vectors,
            names=kernel or None,
            operations=operation or DEFAULT,
            dtypes=dtype or ("float32", "float16", "bfloat16"),
            threads=threads or (1,),
            repeats=repeats,
            progress=lambda: step(1),
        )
    report = Report(
        "tq.bench/1",
        f"{cache_type}, {vectors} vectors of {made.layout.group}",
        BENCH,
        [dict(row) for row in rows],
        command=common.command_line(),
        extra={"vectors": vectors, "repeats": repeats},
    )
    shown.emit(report)
