"""``tq score``: the model in the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tqcli.commands import common
from tqcli.errors import UsageError


def score(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model folder, hub id, .gguf or smollm2.")
    ],
    types: common.Types = None,
    cache_type_k: common.TypeK = None,
    cache_type_v: common.TypeV = None,
    codebook: common.Book = None,
    codebook_k: common.BookK = None,
    codebook_v: common.BookV = None,
    layer: common.Layer = None,
    keep_first: common.KeepFirst = None,
    keep_last: common.KeepLast = None,
    calibration: common.CalibrationPath = None,
    plan: common.PlanFile = None,
    mode: Annotated[str, typer.Option(help="prefix, on-the-fly or both.")] = "prefix",
    sweep: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="layers (one quantized at a time) or all-but-one."),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option("-f", "--file", help="Corpus, '-' is stdin; repeat it. Default: built-in."),
    ] = None,
    chunks: Annotated[int, typer.Option(help="Texts, or windows of the corpus.")] = 4,
    context: Annotated[
        int, typer.Option("-c", "--ctx-size", help="Tokens of each; the second half is scored.")
    ] = 1024,
    chunk_size: Annotated[int, typer.Option(help="Tokens of one pass; 1 is token by token.")] = 512,
    compute_dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16 of the model.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="PyTorch device.")] = "cpu",
    revision: Annotated[str | None, typer.Option(help="Revision on the hub.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="File that an interrupted run continues from.")
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", metavar="EXPR", help="Exit 1 if it holds, e.g. 'kl_mean>0.02'."),
    ] = None,
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
    quiet: common.Quiet = False,
) -> None:
    """Run a model on a quantized cache and hold its next-token distributions against a float run.

    prefix: the cache of each text's first half is replaced, the rest stays float. on-the-fly:
    every K and V is quantized as it is written, as engines do. A row of f16 must score next to
    nothing, and one of a cache that is broken on purpose (canary) badly, or the run fails.

    Types take +center for K: its mean before RoPE is taken away before encoding and added back
    after; it comes from --calibration or else from the float run's first half. --keep-last: the
    last tokens of the replaced cache stay float; on the fly, those before each query.

    Example: tq score smollm2 -t turbo3 -t q8_0/turbo3 --mode both
    """
    from tqcli.model import sweep as sweeping
    from tqcli.model.canary import NAME as CANARY
    from tqcli.model.corpus import Corpus
    from tqcli.model.score import parse_modes, total_tokens
    from tqcli.model.score import score as run
    from tqcli.model.subject import load_subject
    from tqcli.progress import note, progress_bytes
    from tqcli.report.gate import apply_gates, parse_gates
    from tqcli.report.result import Report
    from tqcli.report.views import SCORE
    from tqcli.sources.texts import read_texts
    from tqcli.words import counted

    shown = common.output_of("score", format, json, wide=wide, columns=columns)
    gates = parse_gates(fail_if, "score")
    modes = parse_modes(mode)
    plans = common.plan_options(
        types=types,
        cache_type_k=cache_type_k,
        cache_type_v=cache_type_v,
        codebook=codebook,
        codebook_k=codebook_k,
        codebook_v=codebook_v,
        layer=layer,
        keep_first=keep_first,
        keep_last=keep_last,
        calibration=calibration,
        plan=plan,
    ).plans()
    common.require_different(plans)
    if sweep is not None and len(plans) > 1:
        raise UsageError(f"--sweep takes one type, {len(plans)} came; give a single -t")
    corpus = Corpus(tuple(read_texts(file or ())), chunks, context)
    if state is not None and not state.parent.is_dir():
        raise UsageError(f"{state}: there is no folder {state.parent}; create it first")
    subject = load_subject(
        model,
        corpus,
        revision=revision,
        compute_dtype=compute_dtype,
        device=device,
        note=lambda text: note(text, quiet=quiet),
    )
    layers = sweeping.cached_layers(subject)
    for one in plans:
        one.check_layers(layers)
    if sweep is not None:
        plans = sweeping.sweep_plans(plans[0], layers, sweep)
    total = total_tokens(subject, plans, modes)
    with progress_bytes(total, "score", unit=" tokens", quiet=quiet) as progress:
        scores = run(
            subject, plans, modes=modes, chunk_size=chunk_size, state=state, progress=progress
        )
    extra: dict[str, Any] = {"source": dict(subject.provenance), "by_text": scores.by_text()}
    if sweep is None:
        rows, notes = scores.rows(), []
    else:
        rows = sweeping.sweep_rows(scores, layers, sweep)
        notes = sweeping.explain_sweep(rows, sweep)
        extra["sweep"] = sweeping.summary(rows)
    report = Report(
        "tq.score/1",
        f"{model}: {counted(len(subject.sequences), 'text')}, "
        f"{counted(rows[0]['positions'], 'scored token')}, "
        f"perplexity {rows[0]['perplexity_float']:.3f} with a float cache",
        SCORE,
        rows,
        notes=[*notes, *_proofs(rows)],
        command=common.command_line(),
        extra=extra,
    )
    shown.emit(report)
    apply_gates(gates, [row for row in rows if row["name"] != CANARY])


def _proofs(rows: list[dict[str, Any]]) -> list[str]:
    """What makes the figures credible, in one line a mode."""
    lines = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        first, *_, last = (row for row in rows if row["mode"] == mode)
        lines.append(
            f"{mode}: proven: a cache of f16 scores {first['kl_mean']:.2g}, one broken on purpose "
            f"(canary) {last['kl_mean']:.2g}; every quantized K and V had its effect."
        )
    return lines
