"""Paths that are no files, files that change, folders and disks that refuse."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest

from tqcli.kv import atomic, tensorfile, writer
from tqcli.kv.tensorfile import TensorFile

from .conftest import Refused, contents
from .containers import file_of

COMMANDS = {
    "quantize": ["quantize", "@", "-o", "o.safetensors"],
    "unpack": ["unpack", "@", "-o", "o.safetensors"],
    "evaluate": ["evaluate", "@"],
    "compare": ["compare", "@", "-t", "turbo3"],
    "inspect": ["inspect", "@", "--verify"],
    "fit-codebook": ["fit-codebook", "@", "-o", "o.json"],
}


def on(command: str, path: object) -> list[str]:
    """The arguments of a command on this input."""
    return [str(path) if part == "@" else part for part in COMMANDS[command]]


@pytest.mark.parametrize("suffix", ["safetensors", "json", "safetensors.index.json"])
@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "zero", "loop", "dangling"])
def test_no_regular_file(kind: str, suffix: str, folder: Path, refused: Refused) -> None:
    """What is no regular file is refused at once; a FIFO or /dev/zero is never opened."""
    path = folder / f"x.{suffix}"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind in ("zero", "loop", "dangling"):
        path.symlink_to({"zero": "/dev/zero", "loop": path, "dangling": "nowhere"}[kind])
    for command in COMMANDS:
        if command == "compare" and suffix == "json":
            continue  # that is a report, see test_reports.py
        refused(*on(command, path.name), matching=rf"x\.{suffix}: ")


@pytest.mark.parametrize("command", ["evaluate", "quantize"])
@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_second_input(kind: str, command: str, dump: Path, refused: Refused) -> None:
    """The candidate of evaluate and the codebook of quantize are opened as carefully."""
    path = dump.parent / "x"
    os.mkfifo(path) if kind == "fifo" else path.mkdir()
    extra = ["x"] if command == "evaluate" else ["--codebook", "x"]
    refused(*on(command, dump.name), *extra, matching="x: .*regular file|x: a directory")


def test_name_too_long(dump: Path, refused: Refused) -> None:
    """A name that the file system refuses is an error like any other."""
    refused("quantize", dump.name, "-o", "o" * 300 + ".safetensors", matching="too long")
    refused("quantize", "d" * 300, "-o", "o.safetensors", matching="too long")


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("via", ["same", "symlink", "hard link", "dotted"])
@pytest.mark.parametrize("command", ["quantize", "unpack", "fit-codebook"])
def test_output_is_the_input(
    command: str, via: str, force: list[str], dump: Path, packed: Path, refused: Refused
) -> None:
    """No command writes over its own input, under whatever name."""
    source = packed if command == "unpack" else dump
    target = Path("./other.safetensors")
    if via == "same":
        target = source
    elif via == "dotted":
        target = Path(f"../{source.parent.name}/./{source.name}")
    elif via == "symlink":
        target.symlink_to(source)
    else:
        os.link(source, target)
    refused(command, source, "-o", target, *force, code=2, matching="input itself|exists")


@pytest.mark.parametrize("command", ["quantize", "unpack", "fit-codebook"])
def test_existing_output(command: str, dump: Path, packed: Path, refused: Refused) -> None:
    """Nothing is overwritten without --force; a folder or device never is."""
    source = packed if command == "unpack" else dump
    (dump.parent / "old.safetensors").write_bytes(b"precious")
    (dump.parent / "dir.safetensors").mkdir()
    refused(command, source, "-o", "old.safetensors", code=2, matching="--force")
    refused(command, source, "-o", "dir.safetensors", "--force", code=2, matching="directory")
    refused(command, source, "-o", "/dev/null", "--force", code=2, matching="regular|safetensors")
    refused(command, source, "-o", "no/such/o.safetensors", code=2, matching="no folder")


def unwritable(tmp_path: Path) -> Path:
    """A folder in which this user may not create files."""
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    # root writes into any folder but those that the kernel makes up
    return closed if os.geteuid() else Path("/proc/self")


@pytest.mark.parametrize("command", ["quantize", "unpack", "fit-codebook"])
def test_read_only_folder(
    command: str, tmp_path: Path, dump: Path, packed: Path, refused: Refused
) -> None:
    """A folder that may not be written to is named."""
    if not sys.platform.startswith("linux"):
        pytest.skip("no /proc")
    source = packed if command == "unpack" else dump
    target = unwritable(tmp_path) / "o.safetensors"
    # fit-codebook has its histograms by then.
    refused(command, source, "-o", target, matching=f"{target}: cannot be written",
            constant=16 << 20)  # fmt: skip


class Full:
    """A file on a disk that fills up after `room` bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: Any) -> int:
        """Write, or fail as a full disk does."""
        self._room -= len(data)
        if self._room < 0:
            raise OSError(28, "No space left on device")
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        """What else a file can."""
        return getattr(self._file, name)

    def __enter__(self) -> Full:
        """The file itself."""
        return self

    def __exit__(self, *rest: object) -> None:
        """Close the file."""
        self._file.__exit__(*rest)


@pytest.mark.parametrize("room", [0, 100, 700])
@pytest.mark.parametrize("command", ["quantize", "unpack", "fit-codebook"])
def test_full_disk(
    command: str,
    room: int,
    dump: Path,
    packed: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that fills up at any byte leaves the old file and no temporary one."""
    source = packed if command == "unpack" else dump
    (dump.parent / "old.safetensors").write_bytes(b"precious")

    def full(*arguments: Any, **options: Any) -> Full:
        return Full(open(*arguments, **options), room)

    def write_at(file: Any, view: memoryview, offset: int) -> None:
        file.seek(offset)
        file.write(view)

    monkeypatch.setattr(atomic, "open", full, raising=False)
    monkeypatch.setattr(writer, "write_at", write_at)
    for target in ("old.safetensors", "new.safetensors"):
        refused(command, source, "-o", target, "--force",
                matching=rf"{target}: cannot be written \(No space left",
                constant=16 << 20)  # fmt: skip


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_last_steps_fail(
    step: str, dump: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the file system at the very end leaves the old file and no temporary one."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    (dump.parent / "old.safetensors").write_bytes(b"precious")
    monkeypatch.setattr(os, step, fail)
    refused("quantize", dump, "-o", "old.safetensors", "--force", matching="Input/output error")


@pytest.mark.parametrize("command", list(COMMANDS))
def test_input_shrinks(
    command: str, dump: Path, packed: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that gets shorter between its header and its data is a short read, not a crash."""
    source = packed if command in ("unpack", "inspect") else dump
    size, read, alone = source.stat().st_size, TensorFile.read, Lock()

    def shrinking(self: TensorFile, *arguments: Any) -> None:
        with alone:  # or one thread would give the length back while another reads
            os.truncate(source, size - 1)
            try:
                read(self, *arguments)
            finally:
                os.truncate(source, size)

    data = source.read_bytes()
    monkeypatch.setattr(TensorFile, "read", shrinking)
    if data[-1]:  # the last byte comes back as 0: count that as unchanged
        source.write_bytes(data[:-1] + b"\0")
    refused(*on(command, source.name), matching="it changed while it was read", constant=64 << 20)


def test_read_error(dump: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails while it is read is blamed on the input, not on the output."""

    def failing(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(tensorfile, "read_at", failing)
    refused("quantize", dump.name, "-o", "o.safetensors",
            matching=r"d.safetensors: layers.0.k: cannot be read \(Input/output")  # fmt: skip


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """``tq`` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "tqcli", *arguments],
        capture_output=True, text=True, timeout=60, check=False, **options,
    )  # fmt: skip


def test_stdout_full(dump: Path) -> None:
    """Results that stdout does not take are an error, not a success."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "tqcli", "inspect", dump.name, "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert ended.returncode == 3
    assert ended.stderr.splitlines() == ["error: [Errno 28] No space left on device"]


LIMIT = 4 << 30  # of address space: libraries and threads take half of it


@pytest.mark.parametrize(
    "header",
    [
        b'{"layers.0.k":{"dtype":"F16","shape":[1,1,8589934592,8589934592],"data_offsets":[0,16]}}',
        b'{"layers.0.k":{"dtype":"F16","shape":[1,1,0,1099511627776],"data_offsets":[0,0]}}',
        None,
    ],
    ids=["2^33 x 2^33", "head_dim 2^40", "header 2^60"],
)
def test_no_address_space_for_lies(header: bytes | None, folder: Path) -> None:
    """Promises of exabytes are refused without asking the system for memory."""
    resource = pytest.importorskip("resource")
    text = b"{}" if header is None else header
    length = 2**60 if header is None else len(text)
    data = bytes(16) if header is not None and b"[0,16]" in header else b""
    (folder / "x.safetensors").write_bytes(length.to_bytes(8, "little") + text + data)
    ended = run(
        "evaluate", "x.safetensors",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT)),
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith("error: x.safetensors: ")
    assert ended.stderr.count("\n") == 1


def test_file_size_limit(dump: Path) -> None:
    """A quota that the output exceeds leaves nothing behind, in a process of its own."""
    resource = pytest.importorskip("resource")
    before = contents(dump.parent)
    ended = run(
        "quantize", dump.name, "-o", "o.safetensors",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900)),
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr == "error: o.safetensors: cannot be written (File too large)\n"
    assert contents(dump.parent) == before


def writing(folder: Path, ready: str, *extra: str, numbers: set[int]) -> subprocess.Popen[str]:
    """``tq quantize`` in a process of its own, caught while its temporary file is there."""
    x = np.random.default_rng(3).standard_normal((1, 8, 8192, 128)).astype(np.float16)
    (folder / "d.safetensors").write_bytes(file_of({f"layers.{i}.k": x for i in range(6)}))

    def defaults() -> None:
        # A job in a shell's background inherits an ignored SIGINT, and so would the test.
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)

    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tqcli", "quantize", "d.safetensors",
         "-o", "o.safetensors", "--force", *extra],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=defaults,
    )  # fmt: skip
    deadline = time.monotonic() + 50
    while not list(folder.glob(ready)) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.001)
    return process


@pytest.mark.parametrize("old", [None, b"precious"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143),
                                              (signal.SIGHUP, 129)])  # fmt: skip
def test_signals(number: int, code: int, old: bytes | None, folder: Path) -> None:
    """Ctrl-C, kill and a closed terminal leave the old file or none, and the code of shells."""
    if old is not None:
        (folder / "o.safetensors").write_bytes(old)
    process = writing(folder, ".o.safetensors.*.tmp", numbers={number})
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", "")
    (folder / "d.safetensors").unlink()
    assert contents(folder) == ({} if old is None else {"o.safetensors": old})


def test_ignored_signals_stay_ignored(folder: Path) -> None:
    """Under nohup a closed terminal ends nothing."""
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited by the process
    try:
        process = writing(folder, ".o.safetensors.*.tmp", numbers=set())
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    finally:
        signal.signal(signal.SIGHUP, ignored)
    assert process.returncode == 0
    assert (folder / "o.safetensors").exists()


def test_main_gives_signals_back(tq: Callable[..., Any]) -> None:
    """A program that calls ``main`` keeps its own handlers."""
    before = signal.getsignal(signal.SIGTERM)
    assert tq("--version").code == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_output_is_readable_by_others(dump: Path, tq: Callable[..., Any]) -> None:
    """The temporary file's private mode does not stick to the result."""
    mask = os.umask(0o022)
    try:
        assert tq("quantize", dump.name, "-o", "o.safetensors").code == 0
    finally:
        os.umask(mask)
    assert (dump.parent / "o.safetensors").stat().st_mode & 0o777 == 0o644
