"""``tq calibrate``: what a model's keys and queries have in common, from texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqcli.commands import common
from tqcli.errors import UsageError


def calibrate(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Calibration to write, *.safetensors.")
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DUMP|CALIBRATION]...", help="Dumps of one model, or calibrations to merge."
        ),
    ] = None,
    from_bias: Annotated[
        str | None,
        typer.Option(
            "--from-bias", metavar="MODEL", help="Take the key projection's bias for the mean."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of MODEL on the hub.")] = None,
    force: common.Force = False,
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
    every: common.Every = False,
    quiet: common.Quiet = False,
) -> None:
    """Collect the mean of K before RoPE and the power of the queries from dumps of a model.

    A cache type with +center takes that mean from every key. The first 4 tokens of each text are
    left out. Calibrations merge exactly, in any order; a text counts once. The residual is the
    share of K's power that is left on texts that are not in the mean (of a single text: on its
    other half).

    Example: tq calibrate kv.safetensors -o cal.safetensors
    """
    from contextlib import ExitStack

    from tqcli.kv.atomic import require_distinct, require_new
    from tqcli.pipeline import calibrate as job
    from tqcli.progress import note, progress_bytes
    from tqcli.report.result import Report
    from tqcli.report.views import CALIBRATE

    shown = common.output_of("calibrate", format, json, wide=wide, columns=columns, every=every)
    if not inputs and from_bias is None:
        raise UsageError("nothing to calibrate on: give dumps, or --from-bias MODEL")
    require_new(output, force=force)
    for path in inputs or ():
        require_distinct(path, output)
    with ExitStack() as stack:
        opened = []
        for path in inputs or ():
            opened.append(job.open_input(path))
            stack.enter_context(opened[-1])
        total = sum(one.nbytes for one in opened)
        with progress_bytes(total, "calibrate", quiet=quiet) as progress:
            evidence = [job.evidence_of(one, progress) for one in opened]
            if from_bias is not None:
                evidence.append(
                    job.bias_evidence(
                        from_bias, revision, note=lambda text: note(text, quiet=quiet)
                    )
                )
            rows = job.calibrate(evidence, output, force=force)
        sources = [{"path": one.path, "fingerprint": one.fingerprint()} for one in opened]
    report = Report(
        "tq.calibrate/1",
        f"{output}: {rows[0]['tokens']} tokens of {rows[0]['texts']} texts",
        CALIBRATE,
        rows,
        inputs=sources,
        command=common.command_line(),
        extra={"output": str(output)},
    )
    shown.emit(report)
