"""Saved reports that nobody should trust."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tqcli.errors import TqError
from tqcli.report.gate import apply_gates, parse_gate
from tqcli.report.render import FORMATS, render
from tqcli.report.result import Report
from tqcli.report.saved import read_reports
from tqcli.report.views import COMPARE, explain_comparison

from .conftest import Refused
from .test_metadata import WRONG, mutants, removed, replaced


@pytest.fixture
def document(dump: Path, tq: Callable[..., Any]) -> dict[str, Any]:
    """The report of a comparison."""
    return json.loads(tq("compare", dump, "-t", "turbo3", "-t", "q8_0", "--json").out)


def use(path: Path) -> None:
    """Everything that compare does with a report."""
    rows, inputs = read_reports([path])
    report = Report("tq.compare/1", "t", COMPARE, rows, explain_comparison(rows), inputs)
    for form in FORMATS:
        text = render(report, form)
        text.encode()
        assert "\x1b" not in text
    apply_gates([parse_gate("k.nmse>1000000")], rows)


def test_every_field_of_a_report(document: dict[str, Any], folder: Path) -> None:
    """Each field replaced by every wrong thing: one typed error or a table."""
    small = {**document, "rows": document["rows"][:2], "command": [], "notes": []}
    path = folder / "r.json"
    path.write_text(json.dumps(small))
    use(path)
    # Rendering is slow: pooled figures are alike, so a few stand for all.
    alike = ("cosine_p50", "cosine_p01", "cosine_min", "mse", "null_cosine_mean", "null_cosine_p1")
    for row in small["rows"]:
        for name in alike:
            row.pop(name, None)
    lines = []
    for what, made in mutants(small):
        path.write_text(json.dumps(made))
        try:
            use(path)
        except TqError as error:  # of the gate too, where no figure is left
            lines.append(str(error))
        except Exception as error:
            pytest.fail(f"{what}: {error!r}")
    assert len(lines) > 100
    assert not any("\n" in line for line in lines)


REPORTS = {
    "": "not JSON",
    "[": "not JSON",
    "[]": "schema 'list'",
    "{}": "schema None; tq.evaluate/1 and tq.compare/1",
    '{"schema": "tq.evaluate/9"}': "schema 'tq.evaluate/9'",
    '{"schema": "tq.codebook/1"}': "schema 'tq.codebook/1'",
    '{"schema": "tq.evaluate/1"}': "lacks rows or inputs",
    '{"schema": "tq.evaluate/1", "rows": [], "inputs": []}': "lacks rows or inputs",
    '{"schema": "tq.evaluate/1", "rows": [1], "inputs": [{}]}': "lacks rows or inputs",
    '{"schema": "tq.evaluate/1", "rows": [{"layer": "all"}], "inputs": [{}]}': "row 0: side None",
    '{"rows": ' + "[" * 200_000 + "}": "not JSON",
    '{"rows": [' + "{}," * 1_000_000 + "{}]}": "values, at most",
}


@pytest.mark.parametrize("text", REPORTS, ids=range(len(REPORTS)))
def test_no_report(text: str, folder: Path, refused: Refused) -> None:
    """Each way to be no report is told, with the file named."""
    (folder / "r.json").write_text(text)
    refused("compare", "r.json", matching=f"r.json: .*{REPORTS[text]}")


def test_reports_of_other_dumps(
    document: dict[str, Any], folder: Path, refused: Refused, tq: Callable[..., Any]
) -> None:
    """Figures of different tensors are not put side by side without being asked to."""
    (folder / "a.json").write_text(json.dumps(document))
    document["inputs"][0]["fingerprint"] = "blake3:" + "0" * 64
    (folder / "b.json").write_text(json.dumps(document))
    refused("compare", "a.json", "b.json", matching="b.json: speaks of .*--force")
    assert tq("compare", "a.json", "b.json", "--force").code == 0


@pytest.mark.parametrize("value", [w for w in WRONG if not isinstance(w, int | float | None)])
def test_figures_are_numbers(
    value: Any, document: dict[str, Any], folder: Path, refused: Refused
) -> None:
    """A figure that is no number names its row and key."""
    path = ("rows", 0, "nmse")
    (folder / "r.json").write_text(json.dumps(replaced(document, path, value)))
    refused("compare", "r.json", matching="r.json: row 0: nmse is")


def test_missing_figure_is_blank(
    document: dict[str, Any], folder: Path, tq: Callable[..., Any]
) -> None:
    """A report of another version may lack a figure."""
    (folder / "r.json").write_text(json.dumps(removed(document, ("rows", 0, "worst_layer"))))
    assert tq("compare", "r.json").code == 0


def test_gate_on_text(dump: Path, tq: Callable[..., Any]) -> None:
    """A condition on what is no figure is a usage error."""
    result = tq("evaluate", dump, "--fail-if", "k.type<3")
    assert result.code == 2
    assert result.err.startswith("error: --fail-if 'k.type<3'")
    assert result.err.count("\n") == 1
