"""What every command promises: exit codes, one line of error, stdout for results alone."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

import tqcli
from tqcli import cli, kernels
from tqcli.errors import TqError
from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import dump_record

Run = Callable[..., Any]


def spawn(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the installed ``tq`` in a process of its own."""
    command = [sys.executable, "-P", "-m", "tqcli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A dump with one NaN."""
    x = np.ones((1, 2, 20, 128), np.float32)
    x[0, 1, 17, 5] = np.nan
    path = tmp_path / "broken.safetensors"
    specs = [("layers.3.k", x.dtype, x.shape)]
    with ContainerWriter(path, specs, dump_record({}, "original", "t")) as writer:
        writer.write("layers.3.k", [x])
    return path


def test_fine(tq: Run, kv: Path, tmp_path: Path) -> None:
    """0, a result on stdout, nothing on stderr."""
    result = tq("quantize", kv, "-o", tmp_path / "p.safetensors")
    assert (result.code, result.err) == (0, "")
    assert "layers.0,14.v" in result.out


def test_gate(tq: Run, kv: Path) -> None:
    """1 when a condition holds: the report still comes, the reason on stderr."""
    result = tq("evaluate", kv, "--fail-if", "k.centred_nmse>1")
    assert result.code == 1
    assert result.err.startswith("error: gate failed: k.centred_nmse>1: 1 row, first all.k")
    assert result.err.count("\n") == 1
    assert "layer" in result.out


def test_gate_that_holds_off(tq: Run, kv: Path) -> None:
    """0 when none holds."""
    result = tq("evaluate", kv, "--fail-if", "v.p1<0.9", "--fail-if", "layers.14.k.nmse>0.2")
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize(
    "gate", ["k.p1", "k.p1<", "k.p1<x", "q.p1<1", "layers.x.k.p1<1", "k.p1 is 1", "", "k.nothing<1"]
)
def test_gates_that_are_none(gate: str, tq: Run, kv: Path) -> None:
    """A mistyped gate may never pass for a gate that holds off."""
    result = tq("evaluate", kv, "--fail-if", gate)
    assert result.code == 2
    assert "--fail-if" in result.err


USAGE = {
    "unknown command": ("frobnicate",),
    "unknown option": ("types", "--colour"),
    "no output": ("quantize", "{dump}"),
    "unknown type": ("quantize", "{dump}", "-o", "{out}", "-ctk", "turbo9"),
    "unknown pair": ("compare", "{dump}", "-t", "turbo3/turbo3/turbo3"),
    "unknown format": ("types", "--format", "xml"),
    "unknown rule": ("quantize", "{dump}", "-o", "{out}", "--nonfinite", "ignore"),
    "unknown domain": ("unpack", "{dump}", "-o", "{out}", "--domain", "fourier"),
    "unknown dtype": ("unpack", "{dump}", "-o", "{out}", "--dtype", "int8"),
    "bad size": ("quantize", "{dump}", "-o", "{out}", "--max-shard-size", "4 parsecs"),
    "size 0": ("quantize", "{dump}", "-o", "{out}", "--max-shard-size", "0"),
    "other suffix": ("quantize", "{dump}", "-o", "out.bin"),
    "two codebooks": ("quantize", "{dump}", "-o", "{out}", "--codebook", "a", "--codebook-k", "b"),
    "codebook for q8_0": (
        "quantize", "{dump}", "-o", "{out}", "-ctk", "q8_0",
        "--codebook-k", "{root}/codebooks/turbo-3bit.json",
    ),
    "packed and types": ("evaluate", "{dump}", "{dump}", "-ctk", "turbo3"),
    "two dumps to compare": ("compare", "{dump}", "{dump}"),
    "a type twice": ("compare", "{dump}", "-t", "turbo3", "-t", "turbo3/turbo3"),
    "a type twice for a model": ("compare", "--model", "{out}", "-t", "turbo3", "-t", "turbo3"),
    "unknown type for a model": ("compare", "--model", "{out}", "-t", "turbo9"),
    "types for reports": ("compare", "a.json", "-t", "turbo3"),
    "nothing to fit": ("fit-codebook", "-o", "{book}"),
    "dumps and a density": ("fit-codebook", "{dump}", "-o", "{book}", "--distribution", "gaussian"),
    "unknown density": ("fit-codebook", "-o", "{book}", "--distribution", "cauchy"),
    "9 bits": ("fit-codebook", "{dump}", "-o", "{book}", "--bits", "9"),
    "letters for bits": ("fit-codebook", "{dump}", "-o", "{book}", "--bits", "three"),
    "no folder": ("quantize", "{dump}", "-o", "nowhere/out.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", USAGE)
def test_usage(case: str, tq: Run, kv: Path, root: Path, tmp_path: Path) -> None:
    """2, one line that helps, nothing on stdout and nothing written."""
    names = {"dump": kv, "root": root}
    names |= {"out": tmp_path / "out.safetensors", "book": tmp_path / "book.json"}
    result = tq(*(part.format_map(names) for part in USAGE[case]))
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_bad_input(tq: Run, broken: Path, tmp_path: Path) -> None:
    """3, with file, tensor, token, head, dim and what to do; nothing written."""
    for command in (
        ("quantize", broken, "-o", tmp_path / "p.safetensors"),
        ("evaluate", broken),
        ("compare", broken),
        ("fit-codebook", broken, "-o", tmp_path / "b.json"),
    ):
        result = tq(*command)
        assert (result.code, result.out) == (3, "")
        assert result.err.startswith(f"error: {broken}: layers.3.k: ")
        assert "token 17 head 1 dim 5" in result.err
        assert "--nonfinite zero" in result.err
        assert result.err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == [broken.name]


def test_debug_shows_the_traceback(broken: Path) -> None:
    """Only on request, and the exit code stays."""
    plain, debug = spawn("evaluate", broken), spawn("--debug", "evaluate", broken)
    assert plain.returncode == debug.returncode == 3
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


def test_interrupt(tq: Run, kv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is 130 and no traceback."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tqcli.kv.dump.open_dump", interrupted)
    result = tq("evaluate", kv)
    assert result.code == 130
    assert "Traceback" not in result.err


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_the_machine_gives_up(
    error: BaseException, tq: Run, kv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or memory is one line as well."""

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("tqcli.kv.dump.open_dump", fails)
    result = tq("evaluate", kv)
    assert (result.code, result.out) == (3, "")
    assert result.err.count("\n") == 1


def test_closed_pipe(kv: Path) -> None:
    """``tq ... | head`` ends quietly."""
    command = [sys.executable, "-P", "-m", "tqcli", "types", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def test_every_error_type_has_a_code() -> None:
    """1, 2 or 3, as the contract says."""
    codes = {kind.__name__: kind.exit_code for kind in TqError.__subclasses__()}
    assert codes["GateError"] == 1
    assert codes["UsageError"] == 2
    assert codes["InputError"] == 3
    assert set(codes.values()) <= {1, 2, 3}


OUTPUTS = {
    "quantize": ("quantize", "{dump}", "-o", "{out}.safetensors"),
    "fit": ("fit-codebook", "{dump}", "-o", "{out}.json"),
    "exact": ("fit-codebook", "--distribution", "gaussian", "-o", "{out}.json"),
    "unpack": ("unpack", "{packed}", "-o", "{out}.safetensors"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_nothing_is_overwritten_unasked(case: str, tq: Run, kv: Path, tmp_path: Path) -> None:
    """A file that is there stays, byte for byte, until --force is given."""
    packed = tmp_path / "packed.safetensors"
    assert tq("quantize", kv, "-o", packed).code == 0
    names = {"dump": kv, "out": tmp_path / "x", "packed": packed}
    command = [part.format_map(names) for part in OUTPUTS[case]]
    target = Path(command[-1])
    target.write_bytes(b"precious")
    before = sorted(tmp_path.iterdir())
    refused = tq(*command)
    assert refused.code == 2
    assert "exists; choose another name or pass --force" in refused.err
    assert target.read_bytes() == b"precious"
    assert sorted(tmp_path.iterdir()) == before
    assert tq(*command, "--force").code == 0
    assert target.read_bytes() != b"precious"
    assert sorted(tmp_path.iterdir()) == before


def test_same_path_in_and_out(tq: Run, kv: Path, tmp_path: Path) -> None:
    """Not even with --force, and not through a link."""
    dump, packed = tmp_path / "d.safetensors", tmp_path / "p.safetensors"
    dump.write_bytes(kv.read_bytes())
    assert tq("quantize", dump, "-o", packed).code == 0
    link = tmp_path / "link.safetensors"
    link.hardlink_to(dump)
    for command in (
        ("quantize", dump, "-o", dump),
        ("quantize", dump, "-o", link),
        ("unpack", packed, "-o", packed),
    ):
        before = Path(command[1]).read_bytes()
        result = tq(*command, "--force")
        assert (result.code, result.out) == (2, "")
        assert "is the input itself" in result.err
        assert Path(command[1]).read_bytes() == before


COMMANDS = {
    "evaluate": ("evaluate", "{dump}"),
    "unpack": ("unpack", "{packed}", "-o", "{out}.safetensors"),
    "figures": ("figures",),
    "compare": ("compare", "{dump}", "-t", "turbo3"),
    "inspect": ("inspect", "{dump}"),
    "quantize": ("quantize", "{dump}", "-o", "{out}.safetensors"),
    "fit-codebook": ("fit-codebook", "{dump}", "-o", "{out}.json"),
    "types": ("types",),
}


# Of these, tables show tensors that are alike in one row unless --all is given.
SUMMED = ("quantize", "unpack", "inspect")


@pytest.fixture
def packed(tq: Run, kv: Path, tmp_path: Path) -> Path:
    """The dump in turbo3."""
    path = tmp_path / "packed.safetensors"
    assert tq("quantize", kv, "-o", path).code == 0
    return path


def filled(command: tuple[str, ...], kv: Path, packed: Path, folder: Path) -> list[str]:
    """A command of the table with its paths."""
    names = {"dump": kv, "packed": packed, "out": folder / "x"}
    return [part.format_map(names) for part in command]


@pytest.mark.parametrize("case", COMMANDS)
def test_json(case: str, tq: Run, kv: Path, packed: Path, tmp_path: Path) -> None:
    """One document on stdout, with what is needed to know how it came about."""
    command = filled(COMMANDS[case], kv, packed, tmp_path)
    result = tq(*command, "--json")
    assert result.code == 0
    document = json.loads(result.out)
    assert document["schema"] == f"tq.{case}/1"
    assert document["tq"] == tqcli.__version__
    assert document["kernel"] == kernels.active()
    assert document["command"] == ["tq", *command, "--json"]
    assert document["numpy"] == np.__version__
    assert document["rows"]
    assert isinstance(document["notes"], list)
    if case in ("types", "figures"):
        assert document["inputs"] == []
    else:
        assert document["inputs"][0]["path"] == str(packed if case == "unpack" else kv)
    if case in ("evaluate", "compare", "quantize", "fit-codebook"):
        with tqcli.open_dump(kv) as dump:
            assert document["inputs"][0]["fingerprint"] == dump.fingerprint()


@pytest.mark.parametrize("case", COMMANDS)
def test_no_format_changes_the_figures(
    case: str, tq: Run, kv: Path, packed: Path, tmp_path: Path
) -> None:
    """Table, JSON, CSV and Markdown of the same rows; all on stdout, nothing on stderr."""
    command = filled(COMMANDS[case], kv, packed, tmp_path)
    if case in ("quantize", "fit-codebook", "unpack"):
        command.append("--force")
    if case in SUMMED:
        command.append("--all")
    outs = {}
    for form in ("table", "json", "csv", "md"):
        result = tq(*command, "--format", form)
        assert (result.code, result.err) == (0, "")
        outs[form] = result.out
    rows = json.loads(outs["json"])["rows"]
    assert len(outs["csv"].splitlines()) == len(rows) + 1
    assert sum(line.startswith("| ") for line in outs["md"].splitlines()) == len(rows) + 2
    assert outs["csv"].splitlines()[0].split(",") == list(dict.fromkeys(k for r in rows for k in r))
    keys = ("name", "tensor", "table", "type", "figure")
    named = str(next(rows[0][key] for key in keys if key in rows[0]))
    assert all(named in text for text in outs.values())
    again = tq(*command, "--format", "table").out
    assert again == outs["table"]


def test_version(tq: Run) -> None:
    """The version and the kernel that runs."""
    result = tq("--version")
    assert result.code == 0
    assert result.out == f"tq {tqcli.__version__} (kernel: {kernels.active()})\n"


def test_kernel_by_environment(kv: Path) -> None:
    """TQ_KERNEL chooses; a name that is none is a usage error and not another kernel."""
    environment = os.environ | {"TQ_KERNEL": "numpy"}
    assert "(kernel: numpy)" in spawn("--version", env=environment).stdout
    wrong = spawn("evaluate", kv, env=os.environ | {"TQ_KERNEL": "mmx"})
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "no kernel 'mmx'" in wrong.stderr


def test_help_is_quick(root: Path) -> None:
    """The app imports no NumPy and no other heavy package: tq --help answers at once."""
    program = (
        "import sys, tqcli.cli\n"
        "heavy = {'numpy', 'scipy', 'gguf', 'safetensors', 'torch', 'transformers', 'tqdm',"
        " 'ml_dtypes', 'rich.table'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)


@pytest.mark.parametrize("command", [*get_command(cli.app).commands, None])
def test_bare_command_explains_itself(command: str | None, tq: Run) -> None:
    """A command without arguments that needs some says how it is used."""
    if command in ("types", "figures", "bench"):
        return
    result = tq(*([] if command is None else [command]))
    assert "Usage: " in result.out + result.err


def environment(**changes: str) -> dict[str, str]:
    """The environment without what decides on colours, with `changes`."""
    drop = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM", "CLICOLOR_FORCE", "TTY_COMPATIBLE")
    return {k: v for k, v in os.environ.items() if k not in drop} | changes


def test_no_escape_codes_in_pipes(kv: Path) -> None:
    """A table in a file is text, whatever the terminal of the shell was."""
    result = spawn("evaluate", kv, env=environment(TERM="xterm-256color"))
    assert result.returncode == 0
    assert "\x1b" not in result.stdout + result.stderr


def on_terminal(*arguments: object, **changes: str) -> tuple[str, str]:
    """Stdout and stderr of ``tq`` when both are terminals, each its own."""
    pairs = [pty.openpty() for _ in range(2)]
    for parent, _ in pairs:
        fcntl.ioctl(parent, termios.TIOCSWINSZ, struct.pack("4H", 50, 200, 0, 0))
    command = [sys.executable, "-P", "-m", "tqcli", *map(str, arguments)]
    env = environment(TERM="xterm-256color", **changes)
    with subprocess.Popen(command, stdout=pairs[0][1], stderr=pairs[1][1], env=env) as process:
        texts = []
        for parent, child in pairs:
            os.close(child)
            data = b""
            while True:
                try:
                    part = os.read(parent, 65_536)
                except OSError:  # Linux says EIO when the other side is gone
                    break
                if not part:
                    break
                data += part
            os.close(parent)
            texts.append(data.decode())
        assert process.wait(timeout=60) == 0
    return texts[0], texts[1]


def test_terminal(kv: Path) -> None:
    """On a terminal there are bold rows on stdout and a bar on stderr."""
    out, err = on_terminal("evaluate", kv)
    assert "\x1b[1m" in out
    assert "evaluate:" in err
    assert "%|" in err


def test_no_color(kv: Path) -> None:
    """NO_COLOR takes the colours away; bold is none, so no colour code may remain."""
    out, _ = on_terminal("evaluate", kv, NO_COLOR="1")
    codes = {part.split("m")[0] for part in out.split("\x1b[")[1:]}
    assert codes <= {"0", "1", "3", "1;3", "0;1"}


def test_quiet(kv: Path) -> None:
    """--quiet takes bar and notes away, also on a terminal."""
    _, err = on_terminal("evaluate", kv, "--quiet")
    assert err == ""


def test_no_bar_in_a_pipe(kv: Path, tmp_path: Path) -> None:
    """Progress is for people: a log holds none."""
    for command in (
        ("evaluate", kv),
        ("quantize", kv, "-o", tmp_path / "p.safetensors"),
        ("compare", kv, "-t", "turbo3"),
    ):
        result = spawn(*command)
        assert (result.returncode, result.stderr) == (0, "")


def test_closed_pipe_hides_no_gate(kv: Path) -> None:
    """The exit code still speaks of the gate when nobody reads the table."""
    command = [sys.executable, "-P", "-m", "tqcli", "evaluate", str(kv), "--fail-if", "k.p1<1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"gate failed" in process.stderr.read()
        assert process.wait(timeout=60) == 1
