"""What hostile files are held against: one line, exit 3, nothing written, little memory."""

from __future__ import annotations

import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import typer.main

from tqcli import cli

from .containers import file_of

# Objects and buffers that do not grow with the file.
CONSTANT = 4 << 20


class Refused(Protocol):
    """See :func:`refused`."""

    def __call__(
        self, *arguments: object, matching: str = ..., code: int = ..., constant: int = ...
    ) -> str:
        """Run the command and return its one line."""
        ...


@pytest.fixture(scope="session", autouse=True)
def _one_parser() -> Iterator[None]:
    """Build Typer's parser once: hundreds of commands run here, and it costs more than they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def _imported(_one_parser: None) -> None:
    """Import what commands import when they need it: modules are not counted as allocations."""
    for name in ("compare", "evaluate", "fit", "inspect", "quantize", "unpack"):
        import_module(f"tqcli.pipeline.{name}")
    import_module("tqcli.report.views")
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()):
        patch.setattr(sys, "argv", ["tq", "inspect", "there is no such file"])
        with pytest.raises(SystemExit):
            cli.main()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that commands run in."""
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    return inside


def contents(folder: Path) -> dict[str, object]:
    """Every name under `folder` with its bytes (or what it is)."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else path.lstat().st_mode
        for path in sorted(folder.rglob("*"))
        if not path.is_char_device()
    }


@pytest.fixture
def refused(tq: Callable[..., object], folder: Path) -> Refused:
    """Run ``tq`` on something that it must refuse, and check how it does so."""

    def run(*arguments: object, matching: str = "", code: int = 3, constant: int = CONSTANT) -> str:
        before = contents(folder)
        size = sum(len(c) for c in before.values() if isinstance(c, bytes))
        tracemalloc.start()
        try:
            result = tq(*arguments)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert result.code == code, result
        assert result.out == ""
        assert result.err.startswith("error: ")
        assert result.err.count("\n") == 1
        assert result.err.endswith("\n")
        assert re.search(matching, result.err), result.err
        assert contents(folder) == before
        assert peak <= 2 * size + constant, f"{peak} bytes for files of {size}"
        return result.err

    return run


@pytest.fixture(scope="session")
def values() -> np.ndarray:
    """One small K: (batch 1, heads 2, seq_len 5, head_dim 128), float16."""
    return np.random.default_rng(11).standard_normal((1, 2, 5, 128)).astype(np.float16)


@pytest.fixture(scope="session")
def dump_bytes(values: np.ndarray) -> bytes:
    """A small dump without metadata: K and V of one layer."""
    return file_of({"layers.0.k": values, "layers.0.v": -values})


@pytest.fixture
def dump(folder: Path, dump_bytes: bytes) -> Path:
    """That dump on disk."""
    path = folder / "d.safetensors"
    path.write_bytes(dump_bytes)
    return path


@pytest.fixture(scope="session")
def packed_bytes(dump_bytes: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The dump as turbo3."""
    from tqcli import open_dump, parse_plan, quantize

    folder = tmp_path_factory.mktemp("packed")
    (folder / "d.safetensors").write_bytes(dump_bytes)
    with open_dump(folder / "d.safetensors") as opened:
        quantize(opened, folder / "p.safetensors", parse_plan("turbo3"))
    return (folder / "p.safetensors").read_bytes()


@pytest.fixture
def packed(folder: Path, packed_bytes: bytes) -> Path:
    """The packed cache on disk."""
    path = folder / "p.safetensors"
    path.write_bytes(packed_bytes)
    return path
