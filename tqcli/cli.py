"""The Typer app, and the only place where errors are caught."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import cleandoc
from typing import Annotated

import typer
from typer.exceptions import TyperException

from tqcli.commands.bench import bench
from tqcli.commands.calibrate import calibrate
from tqcli.commands.compare import compare
from tqcli.commands.convert import convert
from tqcli.commands.dump import dump
from tqcli.commands.evaluate import evaluate
from tqcli.commands.figures import figures
from tqcli.commands.fit_codebook import fit_codebook
from tqcli.commands.inspect import inspect
from tqcli.commands.quantize import quantize
from tqcli.commands.restore import restore
from tqcli.commands.score import score
from tqcli.commands.types import types
from tqcli.commands.unpack import unpack
from tqcli.errors import TqError

USAGE = 2
INPUT = 3
INTERRUPTED = 130
OBJECTS = 100_000  # made between two collections of garbage

app = typer.Typer(
    name="tq",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="The bench for KV-cache quantization: exact bytes, honest measures, real tensors.",
)
# By purpose: the panels of `tq --help`, in order.
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Look": (inspect, types, figures),
    "Measure": (evaluate, compare, score),
    "Make": (dump, fit_codebook, calibrate, quantize, unpack),
    "Engine": (restore, convert),
    "Machine": (bench,),
}
_NEED_NO_ARGUMENTS = (types, figures, bench)


def _text(command: Callable[..., None]) -> str:
    """The docstring with each paragraph on one line, so that help wraps at the window's width."""
    paragraphs = cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


for _panel, _commands in COMMANDS.items():
    for _command in _commands:
        app.command(
            no_args_is_help=_command not in _NEED_NO_ARGUMENTS,
            rich_help_panel=_panel,
            help=_text(_command),
        )(_command)


def _version(wanted: bool) -> None:
    if wanted:
        from tqcli import __version__, kernels

        print(f"tq {__version__} (kernel: {kernels.active()})")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Remember what every command needs to know."""
    del version
    if debug:
        os.environ["TQ_DEBUG"] = "1"


def main() -> None:
    """Run ``tq``; errors end in one line on stderr and an exit code.

    0 fine, 1 a gate failed, 2 usage, 3 bad input, 130 interrupted; 129 and 143 hung up and
    terminated, as shells count.
    """
    thresholds = gc.get_threshold()
    # Modules live until the end: looking through them for garbage would take 20 ms while they are
    # imported, and 40 at the end.
    gc.set_threshold(OBJECTS, *thresholds[1:])
    atexit.register(gc.freeze)
    try:
        with _unwinding():
            code = app(standalone_mode=False)
            sys.stdout.flush()
    except TqError as error:
        code = _fail(error, error.exit_code)
    except TyperException as error:
        code = _fail(error, USAGE, _usage_text(error))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout has seen enough (`tq ... | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (OSError, MemoryError) as error:
        code = _fail(error, INPUT)
    finally:
        gc.set_threshold(*thresholds)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _unwinding() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does: temporary files are removed."""

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # what cleans up is not to be interrupted again
        raise SystemExit(128 + number)

    # Only where nobody decided otherwise: nohup ignores SIGHUP.
    before = {
        number: signal.SIG_DFL
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
        if threading.current_thread() is threading.main_thread()
        and signal.getsignal(number) is signal.SIG_DFL
    }
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _usage_text(error: TyperException) -> str:
    text = getattr(error, "format_message", error.__str__)().rstrip(".")
    near = getattr(error, "possibilities", None)
    if near:  # of an unknown option; Typer itself suggests commands, in these words
        text = f"{error.message}. Did you mean '{near[0]}'?"
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "tq"
    return f"{text}{'' if text.endswith('?') else ';'} see {path} --help"


def _fail(error: BaseException, code: int, text: str | None = None) -> int:
    if os.environ.get("TQ_DEBUG"):
        import traceback

        traceback.print_exception(error)
    message = text if text is not None else str(error) or type(error).__name__
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
