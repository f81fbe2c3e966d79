"""Options of the commands that write save files, and the wish that they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tqcli.errors import UsageError

if TYPE_CHECKING:
    from tqcli.report.result import Report
    from tqcli.sources.llamacpp.plan import Rotation
    from tqcli.sources.llamacpp.target import Target
    from tqcli.sources.llamacpp.wish import Wish

Output = Annotated[Path, typer.Option("-o", "--output", help="Save file to write.")]
Like = Annotated[
    Path | None,
    typer.Option(
        "--like", metavar="PROBE", help="A file that the target server saved: copy its layout."
    ),
]
EngineVersion = Annotated[
    str | None,
    typer.Option(help="Release of llama.cpp, e.g. 0.7.0, or version of the file: 2-4, 9-11."),
]
FlashAttention = Annotated[
    str | None, typer.Option("-fa", "--flash-attn", help="on, or off: V is stored transposed.")
]
ROTATION_HELP = "Hadamard of quantized types: auto, default (llama.cpp's), none or its size."


def make_wish(
    like: Path | None,
    engine_version: str | None,
    types: tuple[str | None, str | None],
    flash_attention: str | None,
    fork: str | None,
    layouts: list[str] | None,
    rotation: str | None,
) -> Wish:
    """From options to a wish; the probe is read."""
    from tqcli.sources.llamacpp.parse import read_layout
    from tqcli.sources.llamacpp.types import TypeRules
    from tqcli.sources.llamacpp.wish import Wish

    if flash_attention not in (None, "on", "off"):
        raise UsageError(f"--flash-attn {flash_attention}: legal are on and off")
    return Wish(
        like=None if like is None else read_layout(like),
        engine_version=engine_version,
        type_k=types[0],
        type_v=types[1],
        flash_attention=None if flash_attention is None else flash_attention == "on",
        rules=TypeRules(fork, tuple(layouts or ())),
        rotation=parse_rotation(rotation or "auto"),
    )


def parse_rotation(text: str) -> Rotation:
    """The value of ``--rotation``."""
    words: dict[str, Rotation] = {"auto": "auto", "default": "default", "none": "none"}
    if text in words:
        return words[text]
    if not text.isdecimal() or len(text) > 6:
        raise UsageError(
            f"--rotation {text}: legal are auto, default, none and the Hadamard's size"
        )
    return int(text)


def written(
    command: str, source: Path, output: Path, target: Target, rows: list[dict[str, Any]]
) -> Report:
    """What `tq restore` and `tq convert` report."""
    said = target.summary()
    k, v = said["rotation"]
    note = (
        f"{said['kind']} file of version {said['version']}, {said['cells']} cells, "
        f"{said['tokens']} tokens, V {'transposed' if said['v_transposed'] else 'not transposed'}, "
        f"Hadamard of K {k or 'none'}, of V {v or 'none'}"
    )
    return report(command, source, output, rows, note, said)


def report(
    command: str,
    source: Path,
    output: Path,
    rows: list[dict[str, Any]],
    note: str,
    said: dict[str, Any],
) -> Report:
    """A row a tensor, what the file is in a sentence, and the same as JSON."""
    from tqcli.commands import common
    from tqcli.report.brief import alike
    from tqcli.report.result import Report
    from tqcli.report.views import INSPECT

    return Report(
        f"tq.{command}/1",
        f"{source} -> {output}",
        INSPECT,
        rows,
        notes=[note],
        inputs=[{"path": str(source)}],
        command=common.command_line(),
        extra={"output": str(output), "file": said},
        brief=alike(rows),
    )
