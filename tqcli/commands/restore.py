"""``tq restore``: a cache back into a file that an engine loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tqcli.commands import common, save_files


def restore(
    dump: common.DumpPath,
    output: save_files.Output,
    like: save_files.Like = None,
    engine_version: save_files.EngineVersion = None,
    cache_type_k: common.TypeK = None,
    cache_type_v: common.TypeV = None,
    flash_attn: save_files.FlashAttention = None,
    model: Annotated[
        Path | None, typer.Option(help="GGUF that the engine runs: its architecture, its layers.")
    ] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture, e.g. llama.")] = None,
    fork: Annotated[str | None, typer.Option(help="Whose ggml type numbers.")] = None,
    layout: Annotated[
        list[str] | None, typer.Option(help="Layout of PROBE where row sizes leave several.")
    ] = None,
    rotation: Annotated[str | None, typer.Option(help=save_files.ROTATION_HELP)] = None,
    force: common.Force = False,
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
    every: common.Every = False,
    quiet: common.Quiet = False,
) -> None:
    """Write a dump back into a llama.cpp save file.

    The file is like PROBE, which the server that will load it has saved; or as the save file was
    that the dump came from; or as --engine-version has it, with f16 values.

    Example: tq restore kv.safetensors -o slot.bin --like probe.bin
    """
    from tqcli.kv.atomic import require_distinct
    from tqcli.kv.dump import open_dump
    from tqcli.pipeline.restore import DumpSource, arch_of_model
    from tqcli.pipeline.restore import restore as run
    from tqcli.progress import progress_bytes

    shown = common.output_of("restore", format, json, wide=wide, columns=columns, every=every)
    types = (cache_type_k, cache_type_v)
    wish = save_files.make_wish(like, engine_version, types, flash_attn, fork, layout, rotation)
    with open_dump(dump) as opened:
        opened.require_apart([output])
        if like is not None:
            require_distinct(like, output)
        source = DumpSource(opened)
        name = arch if model is None else arch_of_model(model, source, dump, arch)
        with progress_bytes(opened.nbytes, "restore", quiet=quiet) as progress:
            target, rows = run(
                source, dump, output, wish, arch=name, force=force, progress=progress
            )
    shown.emit(save_files.written("restore", dump, output, target, rows))
