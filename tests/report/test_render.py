"""One result in four shapes."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from rich.style import Style

from tqcli.errors import UsageError
from tqcli.report.figures import human_bytes
from tqcli.report.render import FORMATS, VERDICT_STYLES, render
from tqcli.report.result import Brief, Report

COLUMNS = ("name", "bits_per_value", "same_top1", "bytes", "kurtosis", "zeroed_values")
ROWS: list[dict[str, Any]] = [
    {
        "name": "turbo3 | [bold]x[/bold]",
        "bits_per_value": 3.125,
        "same_top1": 0.25,
        "bytes": 1 << 20,
        "zeroed_values": 0,
        "more": 1,
    },
    {
        "name": "all",
        "bits_per_value": None,
        "same_top1": 1.0,
        "bytes": 12,
        "zeroed_values": 0,
        "more": 2,
        "layer": "all",
    },
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
    assert rows[1]["bits_per_value"] == ""
    assert [row["more"] for row in rows] == ["1", "2"]


def test_markdown() -> None:
    """Pipes in names are escaped, figures stand right, notes below."""
    lines = render(report(), "md").splitlines()
    assert lines[2] == "| name | bits per value | same top1 | bytes |"
    assert lines[3] == "| --- | ---: | ---: | ---: |"
    assert lines[4] == "| turbo3 \\| [bold]x[/bold] | 3.125 | 25.0% | 1.0 MiB |"
    assert lines[5] == "| all |  | 100.0% | 12 B |"
    assert lines[-1] == "- a note with [brackets] and | pipes"


def test_table() -> None:
    """What looks like markup is text; columns of nothing and of zero troubles are left out."""
    text = render(report(), "table")
    assert "turbo3 | [bold]x[/bold]" in text
    assert "[brackets]" in text
    assert "kurtosis" not in text
    assert "zeroed" not in text
    assert "zeroed" in render(report(), "table", columns=["zeroed_values"])
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_table_of_nothing() -> None:
    """No rows is an empty table, in every format."""
    for form in FORMATS:
        assert "Error" not in render(report(rows=[], notes=[]), form)


def test_chosen_columns() -> None:
    """What names a row stays in front, whatever is chosen; the order is the user's."""
    lines = render(report(), "md", columns=["bytes", "bits_per_value"]).splitlines()
    assert lines[2] == "| name | bytes | bits per value |"


def test_brief_rows() -> None:
    """People see the brief form and a line that says so; programs see every row."""
    short = report(brief=Brief(ROWS[1:], "the last one"))
    for form in ("table", "md"):
        text = render(short, form)
        assert "turbo3" not in text
        assert "1 of 2 rows: the last one; --all shows every one." in text
        assert "turbo3" in render(short, form, every=True)
    assert json.loads(render(short, "json"))["rows"] == ROWS
    assert "turbo3" in render(short, "csv")


def luminance(color: tuple[float, float, float]) -> float:
    """Relative luminance of an sRGB colour, by WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("level", VERDICT_STYLES)
@pytest.mark.parametrize("background", [0.0, 1.0])
def test_verdicts_can_be_read_on_black_and_on_white(level: str, background: float) -> None:
    """Contrast of WCAG AA: 4.5, and 3 where the word is bold too."""
    style = Style.parse(VERDICT_STYLES[level])
    assert style.color is not None
    red, green, blue = (part / 255 for part in style.color.get_truecolor())
    pair = sorted((luminance((red, green, blue)), background))
    assert (pair[1] + 0.05) / (pair[0] + 0.05) >= (3 if style.bold else 4.45)


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
