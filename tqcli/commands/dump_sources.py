"""From the options of ``tq dump`` to a source."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqcli.commands import save_files
from tqcli.errors import UsageError

if TYPE_CHECKING:
    from tqcli.sources.arrays.source import ArraysSource
    from tqcli.sources.hf.source import TransformersSource
    from tqcli.sources.llamacpp.source import LlamaCppSource

Given = Mapping[str, Any]  # option name to value; None, False or empty: not given


def refuse_others(kind: str, mine: Given, others: Iterable[Given]) -> None:
    """Refuse options that mean nothing for this kind of source, rather than ignore them."""
    for options in others:
        for option, value in options.items():
            if option not in mine and value not in (None, False, []):
                raise UsageError(f"{option}: means nothing for a {kind} source; leave it out")


def check_output(path: Path, *, force: bool) -> None:
    """Look at the target before a model runs for it."""
    from tqcli.kv.atomic import require_new
    from tqcli.kv.container import SUFFIX

    if path.suffix != SUFFIX:
        raise UsageError(f"{path}: name the output *{SUFFIX}")
    require_new(path, force=force)


def model_source(
    source: str, output: Path, given: Given, stack: ExitStack, *, quiet: bool
) -> TransformersSource:
    """Run a model on the prompts; scratch files lie beside the output until ``stack`` closes."""
    from tqcli.progress import note, progress_bytes
    from tqcli.sources.hf.prompts import Prompts
    from tqcli.sources.hf.source import Options, TransformersSource
    from tqcli.sources.texts import read_texts

    prompts = Prompts(
        (*(given["--prompt"] or ()), *read_texts(given["-f"] or ())), given["--chunks"], given["-c"]
    )
    named = {
        "dtype": given["--dtype"],
        "compute_dtype": given["--compute-dtype"],
        "device": given["--device"],
        "chunk_size": given["--chunk-size"],
        "revision": given["--revision"],
    }
    chosen = {name: value for name, value in named.items() if value is not None}
    options = Options(queries=given["--queries"], **chosen)
    if given["--resume"]:
        work_dir = _work_dir(output)
    else:
        # beside the output: there is room for the dump, and /tmp may be memory
        scratch = tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent)
        work_dir = Path(stack.enter_context(scratch))
    made = TransformersSource(
        source, prompts, options, work_dir=work_dir, note=lambda text: note(text, quiet=quiet)
    )
    with progress_bytes(made.num_tokens, "prefill", unit=" tokens", quiet=quiet) as progress:
        made.progress = progress
        made.run()
    return made


def _work_dir(output: Path) -> Path:
    return output.with_name(output.name + ".work")


def remove_work(output: Path) -> None:
    """Remove what ``--resume`` kept: everything is written."""
    shutil.rmtree(_work_dir(output), ignore_errors=True)


def save_file_source(source: str, given: Given) -> LlamaCppSource:
    """Open a llama.cpp save file."""
    from tqcli.sources.llamacpp.source import LlamaCppSource

    return LlamaCppSource(
        source,
        model=given.get("--model"),
        heads=given.get("--heads"),
        head_dim=given.get("--head-dim"),
        head_dim_v=given.get("--head-dim-v"),
        arch=given.get("--arch"),
        sequence=given.get("--seq"),
        fork=given.get("--fork"),
        layouts=given.get("--layout") or (),
        rotation=save_files.parse_rotation(given.get("--rotation") or "auto"),
    )


def arrays_source(sources: Sequence[str], given: Given) -> ArraysSource:
    """Open array files."""
    from tqcli.sources.arrays.source import ArraysSource, Choice

    choice = Choice(
        preset=given.get("--preset"),
        pattern=given.get("--pattern"),
        axes=given.get("--axes"),
        heads=given.get("--heads"),
        side=given.get("--side"),
    )
    return ArraysSource([Path(source) for source in sources], choice)
