"""``tq compare``: several types on one dump, or several saved reports, side by side."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqcli.commands import common
from tqcli.errors import UsageError

if TYPE_CHECKING:
    from tqcli.model.corpus import Corpus
    from tqcli.plan.plan import Plan

DEFAULT_TYPES = ("turbo3", "turbo2", "turbo4", "q4_0", "q4_0+rot", "q8_0", "f16")


def compare(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DUMP | REPORT.json ...]", help="One dump, or reports."),
    ] = None,
    types: common.Types = None,
    layer: common.Layer = None,
    keep_first: common.KeepFirst = None,
    keep_last: common.KeepLast = None,
    calibration: common.CalibrationPath = None,
    plan: common.PlanFile = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="Run this model too; without a dump, dump its built-in texts."
        ),
    ] = None,
    mode: Annotated[str, typer.Option(help="Of the model: prefix or on-the-fly.")] = "prefix",
    chunks: Annotated[int, typer.Option(help="Texts that the model reads.")] = 4,
    context: Annotated[
        int, typer.Option("-c", "--ctx-size", help="Tokens of each; the second half is scored.")
    ] = 1024,
    queries: Annotated[
        str, typer.Option("--queries", help="Attention: auto, all, none or N query positions.")
    ] = "auto",
    fail_if: common.FailIf = None,
    nonfinite: common.Rule = "error",
    force: Annotated[
        bool, typer.Option("--force", help="Compare reports of different dumps.")
    ] = False,
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
    threads: common.Threads = None,
    quiet: common.Quiet = False,
) -> None:
    """Put cache types side by side on one dump, or saved reports.

    The first type is what the others are held against. Reports are those that tq evaluate --json
    wrote; they must speak of the same dump. With --model, the types also run in the model's cache,
    and the table ends in the rank correlation of every cheap measure with the model's KL.

    Example: tq compare kv.safetensors -t turbo3 -t q8_0/turbo3 -t turbo4@2026-03
    """
    common.use_threads(threads, model=model is not None)
    from tqcli.pipeline.judge import parse_queries
    from tqcli.report.gate import apply_gates, parse_gates
    from tqcli.report.result import Report
    from tqcli.report.views import COMPARE, explain_comparison, explain_ranks

    shown = common.output_of("compare", format, json, wide=wide, columns=columns)
    gates = parse_gates(fail_if, "compare")
    paths, ranks = inputs or [], []
    options = parse_queries(queries)
    if paths and all(_is_report(path) for path in paths):
        if types or plan or model:
            raise UsageError("-t and --model need a dump; reports already hold their types")
        from tqcli.report.saved import read_reports

        rows, used = read_reports(paths, force=force)
    else:
        if len(paths) > 1 or not (paths or model):
            raise UsageError(f"{len(paths)} dumps; give one dump with -t, or several reports")
        chosen = common.plan_options(
            types=types,
            layer=layer,
            keep_first=keep_first,
            keep_last=keep_last,
            calibration=calibration,
            plan=plan,
        ).plans(DEFAULT_TYPES)
        common.require_different(chosen)
        settings: Any = {"options": options, "nonfinite": nonfinite}
        with ExitStack() as stack:
            corpus = _corpus(chunks, context) if model else None
            path = paths[0] if paths else _dump_texts(str(model), chunks, context, stack, quiet)
            rows, used = _measure(path, chosen, quiet, settings)
            if model is not None:
                ranks = _run_model(model, chosen, rows, corpus, mode, quiet)
    report = Report(
        "tq.compare/1",
        " ".join(str(path) for path in [*paths, *([model] if model else [])]),
        COMPARE,
        rows,
        notes=explain_comparison(rows) + explain_ranks(ranks),
        inputs=used,
        command=common.command_line(),
        extra={"ranks": ranks},
    )
    shown.emit(report)
    apply_gates(gates, rows)


def _is_report(path: Path) -> bool:
    return path.name.endswith(".json") and not path.name.endswith(".index.json")


def _measure(
    path: Path, plans: list[Plan], quiet: bool, settings: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    from tqcli.kv.dump import open_dump
    from tqcli.pipeline.compare import compare as run
    from tqcli.progress import progress_bytes

    with open_dump(path) as dump:
        total = dump.nbytes * len(plans)
        with progress_bytes(total, "compare", quiet=quiet) as progress:
            rows = run(dump, plans, progress=progress, **settings)
        return rows, [{"path": dump.path, "fingerprint": dump.fingerprint()}]


def _corpus(chunks: int, context: int) -> Corpus:
    from tqcli.model.corpus import Corpus

    return Corpus(chunks=chunks, context=context)


def _dump_texts(model: str, chunks: int, context: int, stack: ExitStack, quiet: bool) -> Path:
    """K, V and Q of what the model's cache will hold: the first half of each built-in text."""
    from tqcli.model.corpus import builtin_texts
    from tqcli.pipeline.dump import write_dump
    from tqcli.progress import note, progress_bytes
    from tqcli.sources.hf.prompts import Prompts
    from tqcli.sources.hf.source import Options, TransformersSource

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tq-compare-")))
    prompts = Prompts(tuple(builtin_texts()[:chunks]), context=context // 2)
    source = TransformersSource(
        model, prompts, Options(queries=True), note=lambda text: note(text, quiet=quiet)
    )
    with source, progress_bytes(source.num_tokens, "dump", unit=" tokens", quiet=quiet) as progress:
        source.progress = progress
        result, _ = write_dump(source, folder / "texts.safetensors")
    return Path(result)


def _run_model(
    model: str,
    plans: list[Plan],
    rows: list[dict[str, Any]],
    corpus: Corpus | None,
    mode: str,
    quiet: bool,
) -> list[dict[str, Any]]:
    from tqcli.model.compare import join, score_plans
    from tqcli.progress import note

    scores = score_plans(
        model, plans, corpus=corpus, mode=mode, note=lambda text: note(text, quiet=quiet)
    )
    return join(rows, scores, list(dict.fromkeys(row["name"] for row in rows)))
