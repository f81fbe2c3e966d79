"""``tq inspect``: what is in this file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tqcli.commands import common, dump_sources
from tqcli.commands.inspect_for import inspect_for
from tqcli.errors import UsageError

if TYPE_CHECKING:
    from tqcli.pipeline.inspect import Inspection


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Dump, packed cache, codebook, GGUF, model folder, llama.cpp save file, arrays.",
        ),
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read everything and check the hashes.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="GGUF that a save file belongs to: heads, RoPE.")
    ] = None,
    heads: Annotated[int | None, typer.Option(help="KV heads of a save file or arrays.")] = None,
    head_dim: Annotated[int | None, typer.Option(help="Values of one head.")] = None,
    fork: Annotated[str | None, typer.Option(help="Whose ggml type numbers.")] = None,
    probe: Annotated[
        Path | None,
        typer.Option(
            "--for",
            metavar="PROBE",
            help="A file that a server saved: would it take this save file?",
        ),
    ] = None,
    ctx_size: Annotated[
        int | None, typer.Option("-c", "--ctx-size", help="With --for: tokens of a slot.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Arrays: mlx, vllm or lmcache.")] = None,
    pattern: Annotated[str | None, typer.Option(help="Arrays: their names.")] = None,
    axes: Annotated[str | None, typer.Option(help="Arrays: their axes.")] = None,
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
    every: common.Every = False,
    quiet: common.Quiet = False,
) -> None:
    """Say what a file holds, from its header alone.

    With --for, say whether a server of llama.cpp would load it, check by check; exit code 1 if not.

    Example: tq inspect packed.safetensors --verify
    """
    from tqcli.pipeline.inspect import inspect_path, is_container
    from tqcli.progress import progress_bytes
    from tqcli.report.brief import alike
    from tqcli.report.result import Report
    from tqcli.report.views import INSPECT

    shown = common.output_of("inspect", format, json, wide=wide, columns=columns, every=every)
    if probe is not None:
        others: dump_sources.Given = {
            "--verify": verify, "--heads": heads, "--head-dim": head_dim, "--preset": preset,
            "--pattern": pattern, "--axes": axes,
        }  # fmt: skip
        known = {"--for": probe, "--model": model, "--fork": fork, "-c": ctx_size}
        dump_sources.refuse_others("save file with --for", known, [others])
        inspect_for(path, probe, shown, model=model, ctx_size=ctx_size, fork=fork)
        return
    if ctx_size is not None:
        raise UsageError("--ctx-size: means nothing without --for")
    for_saves: dump_sources.Given = {
        "--model": model, "--heads": heads, "--head-dim": head_dim, "--fork": fork,
    }  # fmt: skip
    for_arrays: dump_sources.Given = {
        "--preset": preset, "--pattern": pattern, "--axes": axes, "--heads": heads,
    }  # fmt: skip
    if is_container(path) and not any((preset, pattern, axes)):
        dump_sources.refuse_others("tq", {"--verify": verify}, [for_saves, for_arrays])
        size = path.stat().st_size if verify and path.is_file() else 0
        with progress_bytes(size, "verify", quiet=quiet or not verify) as progress:
            found = inspect_path(path, verify=verify, progress=progress)
    else:
        if verify:
            raise UsageError(f"{path}: --verify needs a dump or packed cache, which hold hashes")
        found = _source(path, for_saves, for_arrays)
    report = Report(
        "tq.inspect/1",
        f"{path}: {found.kind}",
        INSPECT,
        found.rows,
        notes=found.notes,
        inputs=[{"path": str(path)}],
        command=common.command_line(),
        extra={"kind": found.kind, "metadata": found.metadata},
        brief=alike(found.rows),
    )
    shown.emit(report)


def _source(
    path: Path, for_saves: dump_sources.Given, for_arrays: dump_sources.Given
) -> Inspection:
    from tqcli.pipeline.inspect_source import inspect_config, inspect_gguf, inspect_source
    from tqcli.sources.detect import kind_of

    kind = kind_of([str(path)])
    if kind == "transformers":
        dump_sources.refuse_others("model", {}, [for_saves, for_arrays])
        if path.suffix == ".gguf":
            return inspect_gguf(path)
        if path.is_dir():
            return inspect_config(path)
        raise UsageError(f"{path}: a model on a hub; give its folder or a .gguf to inspect")
    if kind == "llama.cpp":
        dump_sources.refuse_others(kind, for_saves, [for_arrays])
        source = dump_sources.save_file_source(str(path), for_saves)
        return inspect_source("llama.cpp save file", source)
    dump_sources.refuse_others(kind, for_arrays, [for_saves])
    with dump_sources.arrays_source([str(path)], for_arrays) as arrays:
        return inspect_source("arrays", arrays)
