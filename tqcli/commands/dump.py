"""``tq dump``: K, V and Q from where they are into a dump."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqcli.commands import common, dump_sources, save_files
from tqcli.errors import UsageError

if TYPE_CHECKING:
    from tqcli.sources.base import Source

_MODEL, _SAVE, _ARRAYS = "Models (transformers)", "llama.cpp save files", "Arrays"


def dump(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Model folder, hub id, .gguf, smollm2, llama.cpp save file, or array files.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Dump to write.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="Text to read; repeat it.", rich_help_panel=_MODEL),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            "-f", "--file", help="File with text, '-' is stdin; repeat it.", rich_help_panel=_MODEL
        ),
    ] = None,
    chunks: Annotated[
        int | None,
        typer.Option(help="Cut all text into N windows of -c tokens.", rich_help_panel=_MODEL),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "-c", "--ctx-size", help="Tokens of a window, or at most.", rich_help_panel=_MODEL
        ),
    ] = None,
    queries: Annotated[
        bool,
        typer.Option("--queries", help="Q and W_o's Gram matrices too.", rich_help_panel=_MODEL),
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float16 (default), bfloat16 or float32 of the dump.", rich_help_panel=_MODEL
        ),
    ] = None,
    compute_dtype: Annotated[
        str | None,
        typer.Option(
            help="float32 (default), bfloat16 or float16 of the model.", rich_help_panel=_MODEL
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="PyTorch device; cpu.", rich_help_panel=_MODEL)
    ] = None,
    chunk_size: Annotated[
        int | None, typer.Option(help="Tokens of one pass; 512.", rich_help_panel=_MODEL)
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Revision on the hub.", rich_help_panel=_MODEL)
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep the work of an interrupted run and continue it.",
            rich_help_panel=_MODEL,
        ),
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(help="The GGUF that ran: heads, RoPE (header only).", rich_help_panel=_SAVE),
    ] = None,
    head_dim: Annotated[
        int | None, typer.Option(help="Values of one head.", rich_help_panel=_SAVE)
    ] = None,
    head_dim_v: Annotated[
        int | None, typer.Option(help="The same of V, if it differs.", rich_help_panel=_SAVE)
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="Architecture, e.g. llama.", rich_help_panel=_SAVE)
    ] = None,
    sequence: Annotated[
        int | None, typer.Option("--seq", help="Only this sequence.", rich_help_panel=_SAVE)
    ] = None,
    fork: Annotated[
        str | None, typer.Option(help="Whose ggml type numbers.", rich_help_panel=_SAVE)
    ] = None,
    layout: Annotated[
        list[str] | None,
        typer.Option(help="Layout where row sizes leave several.", rich_help_panel=_SAVE),
    ] = None,
    rotation: Annotated[
        str | None,
        typer.Option(help=save_files.ROTATION_HELP, rich_help_panel=_SAVE),
    ] = None,
    packed: Annotated[
        bool,
        typer.Option(
            "--packed", help="Keep the blocks: write a packed cache.", rich_help_panel=_SAVE
        ),
    ] = False,
    preset: Annotated[
        str | None, typer.Option(help="mlx, vllm or lmcache.", rich_help_panel=_ARRAYS)
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="Names, e.g. 'model.{layer}.{side}'.", rich_help_panel=_ARRAYS),
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(help="Order, e.g. layer,batch,head,seq,dim.", rich_help_panel=_ARRAYS),
    ] = None,
    side: Annotated[
        str | None,
        typer.Option(help="k, v or q, where names do not say.", rich_help_panel=_ARRAYS),
    ] = None,
    heads: Annotated[
        int | None,
        typer.Option(help="KV heads (arrays: of a 'hidden' axis).", rich_help_panel=_ARRAYS),
    ] = None,
    layers: Annotated[
        str | None, typer.Option("--layers", help="Only these, e.g. 0,7,15-17.")
    ] = None,
    nonfinite: Annotated[
        str, typer.Option("--nonfinite", help="NaN and Inf: error, or zero (the value).")
    ] = "error",
    max_shard_size: common.ShardSize = None,
    force: common.Force = False,
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
    every: common.Every = False,
    quiet: common.Quiet = False,
) -> None:
    """Dump K and V (and Q) of a model, a llama.cpp save file or arrays on disk.

    K is taken as the cache holds it, after RoPE. A model needs text: --prompt or -f.

    Example: tq dump smollm2 -f notes.txt -c 1024 --queries -o kv.safetensors
    """
    from tqcli.pipeline.dump import total_bytes, write_dump, write_packed
    from tqcli.progress import progress_bytes
    from tqcli.report.brief import alike
    from tqcli.report.result import Report
    from tqcli.report.views import INSPECT
    from tqcli.sources.base import PackedSource
    from tqcli.sources.detect import kind_of
    from tqcli.sources.select import SelectedLayers, parse_layers

    shown = common.output_of("dump", format, json, wide=wide, columns=columns, every=every)
    for_models: dump_sources.Given = {
        "--prompt": prompt, "-f": file, "--chunks": chunks, "-c": context, "--queries": queries,
        "--dtype": dtype, "--compute-dtype": compute_dtype, "--device": device,
        "--chunk-size": chunk_size, "--revision": revision, "--resume": resume,
    }  # fmt: skip
    for_saves: dump_sources.Given = {
        "--model": model, "--head-dim": head_dim, "--head-dim-v": head_dim_v, "--arch": arch,
        "--seq": sequence, "--fork": fork, "--layout": layout, "--rotation": rotation,
        "--packed": packed, "--heads": heads,
    }  # fmt: skip
    for_arrays: dump_sources.Given = {
        "--preset": preset, "--pattern": pattern, "--axes": axes, "--side": side, "--heads": heads,
    }  # fmt: skip
    kind = kind_of(sources)
    given = {"transformers": for_models, "llama.cpp": for_saves, "arrays": for_arrays}
    mine = given.pop(kind)
    dump_sources.refuse_others(kind, mine, given.values())
    dump_sources.check_output(output, force=force)
    writing: dict[str, Any] = {"max_shard_bytes": common.parse_size(max_shard_size), "force": force}
    with ExitStack() as stack:
        source: Source
        if kind == "transformers":
            source = dump_sources.model_source(sources[0], output, mine, stack, quiet=quiet)
        elif kind == "llama.cpp":
            source = dump_sources.save_file_source(sources[0], mine)
        else:
            source = stack.enter_context(dump_sources.arrays_source(sources, mine))
        if layers is not None and packed:
            raise UsageError("--layers: means nothing with --packed; leave one out")
        if layers is not None:
            source = SelectedLayers(source, parse_layers(layers))
        info = source.describe()
        if packed and not isinstance(source, PackedSource):
            raise UsageError(f"{sources[0]}: holds no blocks; leave --packed out")
        with progress_bytes(total_bytes(info), "write", quiet=quiet) as progress:
            if packed and isinstance(source, PackedSource):
                result, rows = write_packed(source, output, progress=progress, **writing)
            else:
                writing["nonfinite"] = nonfinite
                result, rows = write_dump(source, output, progress=progress, **writing)
        if resume:
            dump_sources.remove_work(output)
    report = Report(
        "tq.dump/1",
        f"{' '.join(sources)} -> {result}",
        INSPECT,
        rows,
        notes=list(info.notes),
        command=common.command_line(),
        extra={"output": result, "source": _without_envelope(info.provenance)},
        brief=alike(rows),
    )
    shown.emit(report)


def _without_envelope(source: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance for a report: a save file's envelope is as long as its prompt."""
    return {key: value for key, value in source.items() if key != "envelope"}
