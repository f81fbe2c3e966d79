"""``tq fit-codebook``: Lloyd-Max tables from dumps or a density."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqcli.commands import common
from tqcli.errors import UsageError


def fit_codebook(
    output: Annotated[Path, typer.Option("-o", "--output", help="Codebook file to write.")],
    dumps: Annotated[
        list[Path] | None, typer.Argument(metavar="[DUMP]...", help="Dumps to fit to.")
    ] = None,
    bits: Annotated[
        int, typer.Option("--bits", help="Bits a value: 2, 3 or 4; of a density 1 to 8.")
    ] = 3,
    side: Annotated[str, typer.Option("--side", help="k, v, or kv for one table of both.")] = "kv",
    per: Annotated[str, typer.Option("--per", help="One table: pooled; or per layer, head.")] = (
        "pooled"
    ),
    weight: Annotated[
        str, typer.Option("--weight", help="Count vectors alike (vector) or by energy.")
    ] = "vector",
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="Do not mirror levels around zero.")
    ] = False,
    group: Annotated[
        int, typer.Option("--group", help="Values rotated together: 128 or 64.")
    ] = 128,
    distribution: Annotated[
        str | None, typer.Option("--distribution", help="gaussian or sphere, instead of dumps.")
    ] = None,
    dim: Annotated[int, typer.Option("--dim", help="Dimension of the sphere.")] = 128,
    name: Annotated[
        str | None, typer.Option("--id", help="Id of the codebook; default: the file's name.")
    ] = None,
    nonfinite: common.Rule = "error",
    force: common.Force = False,
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
    quiet: common.Quiet = False,
) -> None:
    """Fit Lloyd-Max codebooks to dumps, or compute the exact one of a density.

    Every fifth token is held out, and judges the table beside the exact Gaussian one.

    Example: tq fit-codebook kv.safetensors --bits 3 --per layer -o kv-3bit.json
    """
    from tqcli.codebook import dumps as to_json
    from tqcli.codebook import exact_set
    from tqcli.kv.atomic import require_new, write_text
    from tqcli.report.result import Report
    from tqcli.report.views import FIT_CODEBOOK

    shown = common.output_of("fit-codebook", format, json, wide=wide, columns=columns)
    require_new(output, force=force)
    inputs: list[dict[str, str]] = []
    if distribution is not None:
        if dumps:
            raise UsageError("give dumps or --distribution, not both")
        if distribution not in ("gaussian", "sphere"):
            raise UsageError(f"--distribution {distribution}; gaussian and sphere are legal")
        book = exact_set(distribution, bits, dim)  # type: ignore[arg-type]
        rows = [{"table": "*", "distortion": book.provenance["distortion"]}]
    elif dumps:
        from contextlib import ExitStack

        from tqcli.kv.dump import open_dump
        from tqcli.pipeline.fit import FitOptions
        from tqcli.pipeline.fit import fit_codebook as run
        from tqcli.progress import progress_bytes

        options = FitOptions(bits, side, per, weight, not asymmetric, group)  # type: ignore[arg-type]
        with ExitStack() as stack:
            opened = [stack.enter_context(open_dump(path)) for path in dumps]
            for dump in opened:
                dump.require_apart([output])
            total = sum(dump.nbytes for dump in opened)
            with progress_bytes(total, "fit", quiet=quiet) as progress:
                book, rows = run(
                    opened,
                    options,
                    name or output.stem,
                    nonfinite=nonfinite,  # type: ignore[arg-type]
                    progress=progress,
                )
            inputs = [{"path": d.path, "fingerprint": d.fingerprint()} for d in opened]
    else:
        raise UsageError("nothing to fit: give dumps, or --distribution gaussian")
    write_text(output, to_json(book), force=force)
    report = Report(
        "tq.fit-codebook/1",
        f"{output}: distortion (squared error over energy) at {bits} bits",
        FIT_CODEBOOK,
        rows,
        inputs=inputs,
        command=common.command_line(),
        extra={"output": str(output)},
    )
    shown.emit(report)
