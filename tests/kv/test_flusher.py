"""A file that is synced while it is written: all of it, and no error is lost."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tqcli.errors import InputError
from tqcli.kv import flusher
from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import dump_record

PIECE = np.ones((1, 1, 64, 64), np.float32)
PIECES = 12


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second piece is worth a sync."""
    monkeypatch.setattr(flusher, "STEP", 2 * PIECE.nbytes)


def write(path: Path) -> None:
    """A dump of one tensor in twelve pieces."""
    shape = (1, 1, PIECES * 64, 64)
    specs = [("layers.0.k", PIECE.dtype, shape)]
    with ContainerWriter(path, specs, dump_record({}, "original", "test")) as writer:
        writer.write("layers.0.k", (PIECE for _ in range(PIECES)))


def replace_sync(monkeypatch: pytest.MonkeyPatch, sync: object) -> None:
    """Another call in the place of fdatasync, or of fsync where there is none."""
    monkeypatch.setattr(os, "fdatasync" if hasattr(os, "fdatasync") else "fsync", sync)


def test_syncs_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another thread, one at a time, and the writer never waits for one."""
    threads, release = [], threading.Event()

    def slow(_: int) -> None:
        threads.append(threading.current_thread())
        assert release.wait(10)

    replace_sync(monkeypatch, slow)
    real = flusher.Flusher.finish
    monkeypatch.setattr(flusher.Flusher, "finish", lambda self: (release.set(), real(self))[1])
    write(tmp_path / "d.safetensors")  # all of it is written before the first sync ends
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    assert not threads[0].is_alive()


@pytest.mark.parametrize("at", [1, 2, 3])
def test_errors_are_told(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system reports a lost write once, to whichever sync comes first: it ends the writing."""
    calls = 0

    def failing(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(5, "Input/output error")

    wrote = flusher.Flusher.wrote

    def in_step(self: flusher.Flusher, count: int) -> None:
        wrote(self, count)
        if self._running:
            self._running.exception()  # so that every step is one call

    monkeypatch.setattr(flusher.Flusher, "wrote", in_step)
    replace_sync(monkeypatch, failing)
    with pytest.raises(InputError, match=r"d\.safetensors: cannot be written \(Input/output error"):
        write(tmp_path / "d.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_small_files_are_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread is started for them."""
    monkeypatch.setattr(flusher, "STEP", 1 << 30)
    replace_sync(monkeypatch, pytest.fail) if hasattr(os, "fdatasync") else None
    write(tmp_path / "d.safetensors")
    assert (tmp_path / "d.safetensors").exists()
