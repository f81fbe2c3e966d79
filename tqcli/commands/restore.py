"""``tq restore``: a cache back into a file that an engine loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tqcli.commands import common, dump_sources, save_files
from tqcli.errors import UsageError

if TYPE_CHECKING:
    from tqcli.pipeline.restore import DumpSource
    from tqcli.report.result import Report


def restore(
    dump: common.DumpPath,
    output: save_files.Output,
    store: Annotated[
        str, typer.Option("--as", help="llama.cpp, or mlx: a prompt cache of mlx-lm.")
    ] = "llama.cpp",
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
    """Write a dump back into a file that an engine loads: a llama.cpp save file.

    The file is like PROBE, which the server that will load it has saved; or as the save file was
    that the dump came from; or as --engine-version has it, with f16 values. A prompt cache of
    mlx-lm (--as mlx) needs nothing more; with --like it has the layout and metadata of PROBE.

    Example: tq restore kv.safetensors -o slot.bin --like probe.bin
    """
    from tqcli.kv.atomic import require_distinct
    from tqcli.kv.dump import open_dump
    from tqcli.pipeline.restore import DumpSource, arch_of_model
    from tqcli.pipeline.restore import restore as run
    from tqcli.progress import progress_bytes

    shown = common.output_of("restore", format, json, wide=wide, columns=columns, every=every)
    given: dump_sources.Given = {
        "--engine-version": engine_version, "-ctk": cache_type_k, "-ctv": cache_type_v,
        "-fa": flash_attn, "--model": model, "--arch": arch, "--fork": fork, "--layout": layout,
        "--rotation": rotation,
    }  # fmt: skip
    if store not in ("llama.cpp", "mlx"):
        raise UsageError(f"--as {store}: legal are llama.cpp and mlx")
    if store == "mlx":
        dump_sources.refuse_others("mlx", {"--like": like}, [given])
    with open_dump(dump) as opened:
        opened.require_apart([output])
        if like is not None:
            require_distinct(like, output)
        source = DumpSource(opened)
        if store == "mlx":
            shown.emit(_mlx(source, dump, output, like, force=force))
            return
        types = (cache_type_k, cache_type_v)
        wish = save_files.make_wish(like, engine_version, types, flash_attn, fork, layout, rotation)
        name = arch if model is None else arch_of_model(model, source, dump, arch)
        with progress_bytes(opened.nbytes, "restore", quiet=quiet) as progress:
            target, rows = run(
                source, dump, output, wish, arch=name, force=force, progress=progress
            )
    shown.emit(save_files.written("restore", dump, output, target, rows))


def _mlx(source: DumpSource, dump: Path, output: Path, like: Path | None, *, force: bool) -> Report:
    from tqcli.sources.arrays.mlx_write import MlxFile, read_mlx_file, write_mlx

    layout = MlxFile() if like is None else read_mlx_file(like)
    rows = write_mlx(source, dump, output, layout, force=force)
    release = "0.32 or later" if layout.since_032 else "before 0.32"
    said = {"kind": "mlx-lm prompt cache", "since_032": layout.since_032}
    return save_files.report(
        "restore", dump, output, rows, f"prompt cache for mlx-lm {release}", said
    )
