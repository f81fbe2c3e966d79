"""Reading and writing at offsets, with the system's calls and without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tqcli import workers
from tqcli.kv.positional import read_at, write_at


@pytest.fixture(params=["as here", "without preadv and pwrite"])
def _system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "as here":
        for name in ("preadv", "pwrite"):
            monkeypatch.delattr(os, name, raising=False)


@pytest.mark.usefixtures("_system")
def test_threads_share_a_file(tmp_path: Path) -> None:
    """Four threads write and read their own stripes of one file, piece by piece."""
    stripe, piece = 6400, 64
    with open(tmp_path / "x", "x+b", buffering=0) as file:

        def fill(number: int) -> None:
            for at in range(0, stripe, piece):
                write_at(file, memoryview(bytes([number]) * piece), number * stripe + at)

        def check(number: int) -> bool:
            view = memoryview(bytearray(stripe))
            done = 0
            while done < stripe:
                done += read_at(file, view[done:], number * stripe + done)
            return bytes(view) == bytes([number]) * stripe

        workers.run([lambda n=n: fill(n) for n in range(4)], 4)
        assert workers.run([lambda n=n: check(n) for n in range(4)], 4) == [True] * 4
        assert read_at(file, memoryview(bytearray(1)), 4 * stripe) == 0


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that takes three bytes at a time gets the rest."""
    if not hasattr(os, "pwrite"):
        pytest.skip("no pwrite")
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:3], at))
    with open(tmp_path / "x", "x+b", buffering=0) as file:
        write_at(file, memoryview(b"0123456789"), 2)
    assert (tmp_path / "x").read_bytes() == b"\0\x000123456789"
