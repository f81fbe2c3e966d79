"""Every table on a pseudo-terminal: nothing that matters is lost, at any width."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from tqcli.commands.common import Output
from tqcli.report.figures import ROWS, Figure
from tqcli.report.render import VERDICT_STYLES
from tqcli.report.result import Report
from tqcli.report.table import cell_width

WIDTHS = (80, 100, 120, 160)
_ESCAPE = re.compile(r"\x1b\[([0-9;]*)m")
Emit = Callable[..., str]


@contextmanager
def terminal(width: int) -> Iterator[list[bytes]]:
    """Make stdout a terminal of this width; what was written is in the list afterwards."""
    parent, child = pty.openpty()
    fcntl.ioctl(parent, termios.TIOCSWINSZ, struct.pack("4H", 24, width, 0, 0))
    data: list[bytes] = []

    def read() -> None:
        while True:
            try:
                part = os.read(parent, 65_536)
            except OSError:  # Linux says EIO when the other side is gone
                return
            if not part:
                return
            data.append(part)

    reader = Thread(target=read)
    reader.start()
    before, kept = sys.stdout, os.dup(1)
    os.dup2(child, 1)
    try:
        with os.fdopen(child, "w", encoding="utf-8") as sys.stdout:
            yield data
    finally:
        sys.stdout = before
        os.dup2(kept, 1)
        os.close(kept)
        reader.join()
        os.close(parent)


@pytest.fixture
def emit(monkeypatch: pytest.MonkeyPatch) -> Emit:
    """Print a report on a terminal; the bytes come back as text, with their escapes."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def run(
        report: Report, width: int, *, columns: tuple[str, ...] = (), wide: bool = False
    ) -> str:
        with terminal(width) as data:
            Output("table", columns, wide, False).emit(report)
        return b"".join(data).decode().replace("\r\n", "\n")

    return run


def plain(text: str) -> str:
    """Without escapes."""
    return _ESCAPE.sub("", text)


def shown(report: Report) -> list[Figure]:
    """Columns that have something to say."""
    return report.figures()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_line_is_wider(width: int, reports: list[tuple[str, Report]], emit: Emit) -> None:
    """Every line of every command fits; only a path longer than the window is left to it."""
    for name, report in reports:
        for line in plain(emit(report, width)).splitlines():
            longest = max(map(len, line.split()), default=0)
            assert cell_width(line) <= max(width, longest), (name, line)


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_can_be_told_apart(width: int, reports: list[tuple[str, Report]], emit: Emit) -> None:
    """What identifies a row stands there whole, and so does the verdict."""
    for name, report in reports:
        text = plain(emit(report, width))
        assert "…" not in text
        brief = report.rows if report.brief is None else report.brief.rows
        rows = min(report.rows, brief, key=len)
        pressed = re.sub(r"\s", "", text)
        for figure in shown(report):
            if figure.rank:
                continue
            assert all(word in text for word in figure.title.split()), (name, figure.key)
            for row in rows:
                for part in re.findall(r"[^\s/+,.|_-]+", figure.cell(row)):
                    assert part in pressed, (name, figure.key, part)


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_left_out_is_named(
    width: int, reports: list[tuple[str, Report]], emit: Emit
) -> None:
    """A column is there whole or named in a line that says how to see it."""
    for name, report in reports:
        text = " ".join(plain(emit(report, width)).split())
        _, _, line = text.partition("Too narrow for: ")
        told = line.partition(". See them with --wide, --columns a,b,c or a wider window.")[0]
        left_out = told.split(", ") if told else []
        titles = [figure.title for figure in shown(report)]
        assert set(left_out) <= {f.title for f in shown(report) if f.rank}, name
        assert left_out == [title for title in titles if title in left_out], name
        head = text.partition("Too narrow for: ")[0]
        for title in set(titles) - set(left_out):
            assert all(word in head for word in title.split()), (name, title)


def test_a_narrow_window_shows_less(reports: list[tuple[str, Report]], emit: Emit) -> None:
    """The tables of evaluate and compare do leave columns out at 80, and none when wide."""
    for name, report in reports:
        if name in ("evaluate", "compare"):
            assert "Too narrow for: " in plain(emit(report, 80))
            wide = plain(emit(report, 80, wide=True))
            assert "Too narrow" not in wide
            assert max(map(len, wide.splitlines())) > 80
            chosen = plain(emit(report, 80, columns=("cosine_p50", "mse")))
            assert all(word in chosen for word in ("p50", "mse", "side", "verdict"))
            assert "attention" not in chosen.partition("\n\n")[2].partition("\n\n")[0]


@pytest.mark.parametrize("width", WIDTHS)
def test_verdicts_are_coloured_words(
    width: int, reports: list[tuple[str, Report]], emit: Emit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each level has its own colour and is spelled out; NO_COLOR takes the colour alone away."""
    seen = set()
    for name, report in reports:
        if "verdict" not in report.columns:
            continue
        coloured = emit(report, width)
        for level, style in VERDICT_STYLES.items():
            number = re.findall(r"color\((\d+)\)", style)[0]
            for escape in re.findall(rf"\x1b\[([0-9;]*)m{level}", coloured):
                assert f"38;5;{number}" in escape, (name, level)
                seen.add(level)
        with monkeypatch.context() as patch:
            patch.setenv("NO_COLOR", "1")
            bare = emit(report, width)
        assert plain(bare) == plain(coloured)
        assert set(_ESCAPE.findall(bare)) <= {"0", "1"}
    assert seen == set(VERDICT_STYLES)


def test_verdicts_have_places() -> None:
    """The reports with a verdict column are those whose rows have one."""
    assert ROWS["verdict"].reports == ("evaluate", "compare")


def test_long_paths(emit: Emit) -> None:
    """A path longer than the window is not cut, so that it can be copied."""
    path = "/".join(["a-folder-of-some-length"] * 6)
    report = Report("tq.types/1", f"{path} -> out.safetensors", ("type",), [{"type": "f16"}])
    lines = plain(emit(report, 80)).splitlines()
    assert lines[0] == path
    assert lines[1] == "-> out.safetensors"
