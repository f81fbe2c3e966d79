"""The registry of figures against the reports: every key is explained, and none that is gone."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import tqcli
from tqcli.errors import UsageError
from tqcli.report import views
from tqcli.report.figures import DOCUMENT, REPORTS, ROWS, SECTIONS, Figure, entries, find
from tqcli.report.render import render
from tqcli.report.result import Report

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def documents(reports: list[tuple[str, Report]]) -> list[tuple[str, dict[str, Any]]]:
    """The same as JSON, by command."""
    return [(name, json.loads(render(report, "json"))) for name, report in reports]


def nested(document: dict[str, Any]) -> Iterator[str]:
    """Keys of a document beside its rows; those of objects in a list behind a dot."""
    for key, value in document.items():
        yield key
        if isinstance(value, list) and key not in ("rows", "inputs"):
            yield from (f"{key}.{k}" for item in value if isinstance(item, dict) for k in item)


def test_every_key_of_every_report(documents: list[tuple[str, dict[str, Any]]]) -> None:
    """What stands in a report is in the registry for that command, and the reverse."""
    seen = {(key, name) for name, doc in documents for row in doc["rows"] for key in row}
    assert seen == {(key, name) for key, figure in ROWS.items() for name in figure.reports}
    seen = {(key, name) for name, doc in documents for key in nested(doc)}
    assert seen == {(key, name) for key, figure in DOCUMENT.items() for name in figure.reports}


def test_numbers_are_numbers(documents: list[tuple[str, dict[str, Any]]]) -> None:
    """A figure with a number format holds numbers, another one text (`layer` either)."""
    for _, document in documents:
        for row in document["rows"]:
            for key, value in row.items():
                if value is not None and key != "layer":
                    assert isinstance(value, str) != ROWS[key].is_number, key


def test_values_lie_in_their_range(documents: list[tuple[str, dict[str, Any]]]) -> None:
    """The range that the page gives holds on real tensors."""
    low = {"≥ 0": 0.0, "≥ 1": 1.0, "≥ -2": -2.0, "> 0": 0.0, "0 to 1": 0.0, "-1 to 1": -1.0}
    high = {"0 to 1": 1.0, "-1 to 1": 1.0, "≤ 1": 1.0}
    checked = 0
    for _, document in documents:
        for row in document["rows"]:
            for key, value in row.items():
                if isinstance(value, int | float):
                    # A cosine may pass 1 by rounding.
                    assert low.get(ROWS[key].range, -np.inf) <= value, key
                    assert value <= high.get(ROWS[key].range, np.inf) + 1e-12, key
                    checked += 1
    assert checked > 1000


def every_figure() -> list[Figure]:
    """Of rows and of documents."""
    return [*ROWS.values(), *DOCUMENT.values()]


def test_each_key_has_one_entry() -> None:
    """Two meanings of one key would make the page lie."""
    keys = [figure.key for figures in SECTIONS.values() for figure in figures]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("figure", every_figure(), ids=lambda figure: figure.key)
def test_each_figure_is_explained(figure: Figure) -> None:
    """Formula, source that exists, commands that exist; a range for numbers."""
    assert figure.formula
    assert figure.reports
    assert set(figure.reports) <= set(REPORTS)
    assert importlib.util.find_spec(
        "tqcli." + figure.source.removesuffix(".py").replace("/", ".")
    ), figure.source
    if figure.key in ROWS and figure.is_number and figure.key not in ("head",):
        assert figure.range


def test_names_are_taken_once() -> None:
    """A heading or short name leads to one key in each report."""
    for report in REPORTS:
        names = [n for f in ROWS.values() if report in f.reports for n in f.names]
        assert len(names) == len(set(names)), report


def test_views_choose_known_keys() -> None:
    """Each view names what can occur, each key once, and something that identifies a row."""
    for name, keys in vars(views).items():
        if name.isupper() and isinstance(keys, tuple):
            assert set(keys) <= set(ROWS), name
            assert len(keys) == len(set(keys)), name
            assert not ROWS[keys[0]].rank, name


def test_headings_are_the_keys() -> None:
    """With spaces for underscores; what Gaussian vectors give is headed so."""
    for key, figure in ROWS.items():
        assert figure.title == key.replace("null_", "gaussian_").replace("_", " ")


def test_find() -> None:
    """Key, heading and short name are one; another report's key is none."""
    for text in ("null_nmse", "gaussian nmse", "gaussian_nmse"):
        assert find(text, "evaluate", "x").key == "null_nmse"
    assert find(" p1 ", "compare", "x").key == "cosine_p1"
    with pytest.raises(UsageError, match="--columns: 'kl_mean' is no figure in the report of tq"):
        find("kl_mean", "evaluate", "--columns")


def test_figures_command(tq: Run) -> None:
    """All, some by name, or those of one command; unknown names are suggested."""
    assert len(entries()) == len(ROWS)
    rows = json.loads(tq("figures", "gaussian nmse", "p1", "--json").out)["rows"]
    assert [row["figure"] for row in rows] == ["null_nmse", "cosine_p1"]
    rows = json.loads(tq("figures", "--report", "score", "--json").out)["rows"]
    assert {"kl_mean", "mode"} <= {row["figure"] for row in rows}
    assert "nmse" not in {row["figure"] for row in rows}
    for arguments, words in (
        (("nmsee",), "no figure 'nmsee'; did you mean nmse? see tq figures"),
        (("--report", "evalute"), "did you mean evaluate?"),
    ):
        result = tq("figures", *arguments)
        assert (result.code, result.out) == (2, "")
        assert words in result.err


def test_public_measures_are_figures() -> None:
    """What `tqcli.evaluate` returns is what `tq evaluate` calls so."""
    x = np.ones((1, 4, 8), np.float32)
    assert all("evaluate" in ROWS[key].reports for key in tqcli.evaluate(x, x))
