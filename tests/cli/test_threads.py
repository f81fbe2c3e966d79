"""Threads: figures do not depend on their number, and BLAS starts none beside ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tqcli import blas, kernels
from tqcli.pipeline import attention_jobs

Run = Callable[..., Any]

COMMANDS = {
    "evaluate": ("evaluate", "{dump}", "-ctk", "q4_0", "--per-head", "--threads", "{threads}"),
    "evaluate stored": ("evaluate", "{dump}", "{packed}", "--threads", "{threads}"),
    "compare": ("compare", "{dump}", "-t", "turbo3", "-t", "q8_0/turbo2", "--threads", "{threads}"),
    "fit-codebook": ("fit-codebook", "{dump}", "-o", "{book}", "--per", "head", "--force"),
}


@pytest.fixture(autouse=True)
def all_cores() -> Iterator[None]:
    """Whatever a command set, the next test starts anew."""
    yield
    kernels.set_threads(None)


@pytest.mark.parametrize("queries", [True, False], ids=["with queries", "without"])
@pytest.mark.parametrize("name", COMMANDS)
def test_figures_do_not_depend_on_threads(
    tq: Run, kv: Path, smollm: Path, tmp_path: Path, name: str, queries: bool
) -> None:
    """Parts of a result are merged with others elsewhere, and compared with equality."""
    places = {"dump": smollm if queries else kv, "book": tmp_path / "book.json"}
    places["packed"] = tmp_path / "packed.safetensors"
    assert tq("quantize", places["dump"], "-o", places["packed"]).code == 0
    found = []
    for threads in (1, 2, 3):
        kernels.set_threads(threads)  # for commands that have no option
        words = [word.format(**places, threads=threads) for word in COMMANDS[name]]
        done = tq(*words, "--json")
        assert done.code == 0
        report = json.loads(done.out)
        found.append(json.dumps([report["rows"], report["notes"]]))
    assert found[0] == found[1] == found[2]


WATCH = """
import os, sys
from importlib.abc import MetaPathFinder

class Watch(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "numpy":
            print("numpy", os.environ.get("OPENBLAS_NUM_THREADS"), file=sys.stderr)

sys.meta_path.insert(0, Watch())
from tqcli.cli import main
main()
"""


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "{dump}"),
        ("compare", "{dump}", "-t", "f16"),
        ("bench", "--vectors", "64", "--repeats", "1", "--operation", "pack"),
    ],
    ids=lambda words: words[0],
)
def test_blas_is_held_before_numpy_is_imported(kv: Path, words: tuple[str, ...]) -> None:
    """Later would be too late: OpenBLAS reads the variable once."""
    environment = {k: v for k, v in os.environ.items() if k != blas.VARIABLE}
    command = [sys.executable, "-P", "-c", WATCH, *(word.format(dump=kv) for word in words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[0] == "numpy 1"


def test_blas_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sets the variable keeps it."""
    monkeypatch.setenv(blas.VARIABLE, "8")
    blas.use_one_thread()
    assert blas.is_threaded()
    monkeypatch.delenv(blas.VARIABLE)
    assert blas.is_threaded()
    blas.use_one_thread()
    assert not blas.is_threaded()


def test_jobs_take_turns_where_blas_is_threaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of threads would fight for the cores: then the jobs run in this thread."""
    monkeypatch.setenv(blas.VARIABLE, "8")
    monkeypatch.setattr(attention_jobs, "ThreadPoolExecutor", None)
    kernels.set_threads(4)
    work: Any = list
    assert list(attention_jobs.run(iter([(0, 0, work), (1, 0, work)]))) == [(0, 0, []), (1, 0, [])]
