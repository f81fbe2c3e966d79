"""One result in four shapes."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from tqcli.errors import UsageError
from tqcli.report.render import FORMATS, render
from tqcli.report.result import Column, Report, human_bytes

COLUMNS = (
    Column("name", "name"),
    Column("bits", "bits/value", ".4g"),
    Column("share", "share", ".1%"),
    Column("size", "size", "bytes"),
    Column("never", "never", ".3f"),
)
ROWS: list[dict[str, Any]] = [
    {"name": "turbo3 | [bold]x[/bold]", "bits": 3.125, "share": 0.25, "size": 1 << 20, "more": 1},
    {"name": "all", "bits": None, "share": 1.0, "size": 12, "more": 2, "layer": "all"},
]


def report(**changes: Any) -> Report:
    """A report with everything in it."""
    fields: dict[str, Any] = {
        "schema": "tq.test/1",
        "title": "a title",
        "columns": COLUMNS,
        "rows": ROWS,
        "notes": ["a note with [brackets] and | pipes"],
        "inputs": [{"path": "x", "fingerprint": "blake3:0"}],
        "command": ["tq", "test"],
        "extra": {"output": "y"},
    }
    return Report(**(fields | changes))


def test_json_holds_everything() -> None:
    """Every key of every row, unrounded, and where it came from."""
    document = json.loads(render(report(), "json"))
    assert document["rows"] == ROWS
    assert document["output"] == "y"
    assert set(document) >= {"schema", "tq", "numpy", "python", "kernel", "command", "inputs"}


def test_json_has_no_nan() -> None:
    """JSON knows no NaN and no infinity: such a figure is null, in rows and below them."""
    text = render(report(rows=[{"name": float("nan"), "deep": [float("inf"), 1.5]}]), "json")
    assert json.loads(text)["rows"] == [{"name": None, "deep": [None, 1.5]}]


def test_csv_reads_back() -> None:
    """Quoting is the csv module's, empty cells are empty."""
    rows = list(csv.DictReader(io.StringIO(render(report(), "csv"))))
    assert rows[0]["name"] == "turbo3 | [bold]x[/bold]"
    assert rows[1]["bits"] == ""
    assert [row["more"] for row in rows] == ["1", "2"]


def test_markdown() -> None:
    """Pipes in names are escaped, figures stand right, notes below."""
    lines = render(report(), "md").splitlines()
    assert lines[2] == "| name | bits/value | share | size |"
    assert lines[3] == "| --- | ---: | ---: | ---: |"
    assert lines[4] == "| turbo3 \\| [bold]x[/bold] | 3.125 | 25.0% | 1.0 MiB |"
    assert lines[5] == "| all |  | 100.0% | 12 B |"
    assert lines[-1] == "- a note with [brackets] and | pipes"


def test_table() -> None:
    """What looks like markup in a name is text; empty columns are left out; no escapes."""
    text = render(report(), "table")
    assert "turbo3 | [bold]x[/bold]" in text
    assert "[brackets]" in text
    assert "never" not in text
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_table_of_nothing() -> None:
    """No rows is an empty table, in every format."""
    for form in FORMATS:
        assert "Error" not in render(report(rows=[], notes=[]), form)


def test_unknown_format() -> None:
    """The error lists the legal ones."""
    with pytest.raises(UsageError, match="table, json, csv, md are legal"):
        render(report(), "xml")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 19, "1.5 MiB"),
        (5 << 40, "5120.0 GiB"),
    ],
)
def test_human_bytes(count: int, text: str) -> None:
    """Binary units, named as such."""
    assert human_bytes(count) == text
