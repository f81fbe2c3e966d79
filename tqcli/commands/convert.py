"""``tq convert``: one save file into another type or version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqcli.commands import common, dump_sources, save_files

_SOURCE, _TARGET = "How SLOT is read", "What is written"


def convert(
    slot: Annotated[Path, typer.Argument(metavar="SLOT", help="llama.cpp save file.")],
    output: save_files.Output,
    cache_type_k: common.TypeK = None,
    cache_type_v: common.TypeV = None,
    like: save_files.Like = None,
    engine_version: save_files.EngineVersion = None,
    flash_attn: save_files.FlashAttention = None,
    to_fork: Annotated[
        str | None, typer.Option(help="Whose ggml type numbers.", rich_help_panel=_TARGET)
    ] = None,
    to_layout: Annotated[
        list[str] | None,
        typer.Option(
            help="Layout of PROBE where row sizes leave several.", rich_help_panel=_TARGET
        ),
    ] = None,
    to_rotation: Annotated[
        str | None, typer.Option(help=save_files.ROTATION_HELP, rich_help_panel=_TARGET)
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The GGUF that ran: heads.", rich_help_panel=_SOURCE)
    ] = None,
    heads: Annotated[int | None, typer.Option(help="KV heads.", rich_help_panel=_SOURCE)] = None,
    head_dim: Annotated[
        int | None, typer.Option(help="Values of one head.", rich_help_panel=_SOURCE)
    ] = None,
    head_dim_v: Annotated[
        int | None, typer.Option(help="The same of V, if it differs.", rich_help_panel=_SOURCE)
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="Architecture, e.g. llama.", rich_help_panel=_SOURCE)
    ] = None,
    sequence: Annotated[
        int | None, typer.Option("--seq", help="Only this sequence.", rich_help_panel=_SOURCE)
    ] = None,
    fork: Annotated[
        str | None, typer.Option(help="Whose ggml type numbers.", rich_help_panel=_SOURCE)
    ] = None,
    layout: Annotated[
        list[str] | None,
        typer.Option(help="Layout where row sizes leave several.", rich_help_panel=_SOURCE),
    ] = None,
    rotation: Annotated[
        str | None,
        typer.Option(help=save_files.ROTATION_HELP, rich_help_panel=_SOURCE),
    ] = None,
    force: common.Force = False,
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
    every: common.Every = False,
    quiet: common.Quiet = False,
) -> None:
    """Convert a llama.cpp save file into another cache type or version.

    What is not asked for stays as it is. The Hadamard that llama.cpp puts in front of quantized
    types is applied and undone as needed.

    Example: tq convert f16.bin -o q8.bin -ctk q8_0 -ctv q8_0 --model model.gguf
    """
    from tqcli.kv.atomic import require_distinct
    from tqcli.pipeline.dump import total_bytes
    from tqcli.pipeline.restore import restore as run
    from tqcli.progress import progress_bytes

    shown = common.output_of("convert", format, json, wide=wide, columns=columns, every=every)
    given: dump_sources.Given = {
        "--model": model, "--heads": heads, "--head-dim": head_dim, "--head-dim-v": head_dim_v,
        "--arch": arch, "--seq": sequence, "--fork": fork, "--layout": layout,
        "--rotation": rotation,
    }  # fmt: skip
    types = (cache_type_k, cache_type_v)
    wish = save_files.make_wish(
        like, engine_version, types, flash_attn, to_fork, to_layout, to_rotation
    )
    source = dump_sources.save_file_source(str(slot), given)
    source.require_heads()
    for path in (slot, *([] if like is None else [like])):
        require_distinct(path, output)
    with progress_bytes(total_bytes(source.describe()), "convert", quiet=quiet) as progress:
        target, rows = run(source, slot, output, wish, force=force, progress=progress)
    shown.emit(save_files.written("convert", slot, output, target, rows))
