"""``tq evaluate``: what a cache format does to one dump."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tqcli.commands import common
from tqcli.errors import UsageError


def evaluate(
    dump: common.DumpPath,
    candidate: Annotated[
        Path | None,
        typer.Argument(metavar="[PACKED]", help="Packed cache of this dump, or a second dump."),
    ] = None,
    cache_type_k: common.TypeK = None,
    cache_type_v: common.TypeV = None,
    codebook: common.Book = None,
    codebook_k: common.BookK = None,
    codebook_v: common.BookV = None,
    per_head: Annotated[bool, typer.Option("--per-head", help="A row for each head.")] = False,
    queries: Annotated[
        str, typer.Option("--queries", help="Positions to attend from: auto, all, none, a number.")
    ] = "auto",
    sinks: Annotated[
        int, typer.Option("--sinks", help="First tokens, whose share is told apart.", min=0)
    ] = 4,
    fail_if: common.FailIf = None,
    nonfinite: common.Rule = "error",
    force: Annotated[
        bool, typer.Option("--force", help="Measure a packed cache made from another dump.")
    ] = False,
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
    every: common.Every = False,
    threads: common.Threads = None,
    quiet: common.Quiet = False,
) -> None:
    """Measure what quantization does to K and V, per layer and pooled.

    Give a packed cache or a second dump to judge what is stored, or types to encode on the fly
    (turbo3 by default). Cosine alone says little: "centred nmse" is the error of K after the mean
    over tokens, which softmax ignores, is taken away. With queries in the dump (tq dump
    --queries), "output error" is the energy of what K alone or V alone does to the output of
    attention, over the energy of that output; its sum over layers follows what the model loses.
    The last line names the layers at fault and the cheapest type that cures them. tq figures
    explains every column.

    Example: tq evaluate kv.safetensors -ctk turbo3 -ctv turbo3 --fail-if 'k.p1<0.97'
    """
    common.use_threads(threads)
    from tqcli.kv.dump import open_dump
    from tqcli.pipeline.candidate import open_candidate
    from tqcli.pipeline.evaluate import Candidate
    from tqcli.pipeline.judge import evaluate_and_judge, parse_queries
    from tqcli.progress import progress_bytes
    from tqcli.report.brief import worst
    from tqcli.report.gate import apply_gates, check_places, parse_gates
    from tqcli.report.result import Report
    from tqcli.report.verdict import severity
    from tqcli.report.views import EVALUATE, explain

    shown = common.output_of("evaluate", format, json, wide=wide, columns=columns, every=every)
    options = parse_queries(queries, sinks)
    gates = parse_gates(fail_if, "evaluate")
    chosen = (cache_type_k, cache_type_v, codebook, codebook_k, codebook_v)
    if candidate is not None and any(option is not None for option in chosen):
        raise UsageError("give a packed cache or types, not both")
    with open_dump(dump) as opened:
        has_queries = any(tensor.side == "q" for tensor in opened)
        places = {(tensor.layer, tensor.side) for tensor in opened}
        check_places(gates, places, attention=options is not None and has_queries)
        inputs = [{"path": opened.path, "fingerprint": opened.fingerprint()}]
        with progress_bytes(opened.nbytes, "evaluate", quiet=quiet) as progress:
            settings: Any = {"per_head": per_head, "nonfinite": nonfinite, "progress": progress}
            if candidate is None:
                against = Candidate(*common.cache_types(*chosen))
                judged = evaluate_and_judge(opened, against, options, **settings)
            else:
                with open_candidate(candidate, opened, force=force) as (against, record):
                    judged = evaluate_and_judge(opened, against, options, **settings)
                    inputs.append(record)
    rows, cleaner = judged.rows, judged.evaluation.cleaner
    report = Report(
        "tq.evaluate/1",
        f"{dump}" + (f" against {candidate}" if candidate else ""),
        EVALUATE,
        rows,
        notes=explain(rows) + judged.notes,
        inputs=inputs,
        command=common.command_line(),
        extra={
            "zeroed_values": cleaner.zeroed,
            "skipped_vectors": cleaner.skipped,
        },
        brief=worst(rows, severity),
    )
    shown.emit(report)
    apply_gates(gates, rows)
