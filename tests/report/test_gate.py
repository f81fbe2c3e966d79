"""Gates: conditions that must never be passed by accident."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tqcli.errors import GateError, UsageError
from tqcli.report.figures import of_report
from tqcli.report.gate import apply_gates, check_places, parse_gate

ROWS: list[dict[str, Any]] = [
    {"layer": 0, "side": "k", "head": None, "cosine_p1": 0.95, "nmse": 0.03, "kurtosis": 2.0},
    {"layer": 0, "side": "k", "head": 1, "cosine_p1": 0.10, "nmse": 0.9, "kurtosis": 2.0},
    {"layer": 3, "side": "k", "head": None, "cosine_p1": 0.99, "nmse": 0.01, "kurtosis": None},
    {"layer": 3, "side": "v", "head": None, "cosine_p1": 0.98, "nmse": 0.02, "kurtosis": None},
    {"layer": "all", "side": "k", "head": None, "cosine_p1": 0.97, "nmse": 0.02, "kurtosis": 1.0},
    {"layer": "all", "side": "v", "head": None, "cosine_p1": 0.98, "nmse": 0.02, "kurtosis": None},
]


def failures(text: str) -> list[str]:
    """Rows in which the condition holds."""
    return parse_gate(text).failures(ROWS)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("k.p1<0.97", 0),
        ("k.p1<=0.97", 1),
        ("k.p1==0.97", 1),
        ("k.p1>=0.97", 1),
        ("k.p1>0.97", 0),
        ("k.cosine_p1 < 0.971", 1),
        ("  v.nmse > 1e-2 ", 1),
        ("layers.0.k.p1<0.97", 1),
        ("layers.3.k.p1<0.97", 0),
        ("layers.*.k.p1<1", 2),
        ("layers.*.k.kurtosis>1", 1),
        ("k.cosine p1<=0.97", 1),
        ("layers.*.k.cosine  p1 < 1", 2),
    ],
)
def test_conditions(text: str, count: int) -> None:
    """Pooled unless layers are named; heads never count twice."""
    assert len(failures(text)) == count


@pytest.mark.parametrize(
    "text",
    ["", "p1<1", "q.p1<1", "k.p1", "k.p1=1", "k.p1<", "k.p1<one", "k.p1<1 or v.p1<1",
     "layers.k.p1<1", "layers.-1.k.p1<1", "K.p1<1", "k.p1<nan", "k.p1<inf", "k.p1!=1"],
)  # fmt: skip
def test_not_a_condition(text: str) -> None:
    """A limit that no number can pass is refused like a typing error."""
    with pytest.raises(UsageError, match="--fail-if"):
        parse_gate(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layers.9.k.p1<1", "no cosine_p1 for layers.9.k here"),
        ("layers.3.v.kurtosis>0", "no kurtosis for layers.3.v here"),
        ("v.kurtosis>1", "no kurtosis for all.v here"),
    ],
)
def test_no_such_row(text: str, words: str) -> None:
    """Nothing to judge is no success: the error names the place."""
    with pytest.raises(UsageError, match=re.escape(words)):
        failures(text)


@pytest.mark.parametrize(
    ("text", "report", "words"),
    [
        ("k.p2<1", "evaluate", "'p2' is no number in the report of tq evaluate; did you mean p1?"),
        ("k.output errors>1", "compare", "did you mean output_error?"),
        ("k.type<3", "evaluate", "'type' is no number"),
        ("k.kl_mean>1", "evaluate", "'kl_mean' is no number"),
        ("kl_meen>1", "score", "did you mean kl_mean? see tq figures --report score"),
        ("k.kl_mean>1", "score", "not a condition; write kl_mean>0.02"),
        ("kl_mean", "score", "not a condition; write kl_mean>0.02"),
    ],
)
def test_unknown_measures_are_found_before_any_work(text: str, report: str, words: str) -> None:
    """Parsing alone knows what the report will hold, and suggests the nearest name."""
    with pytest.raises(UsageError, match=re.escape(words)):
        parse_gate(text, report)


@pytest.mark.parametrize("report", ["evaluate", "compare", "score"])
def test_every_heading_can_be_gated(report: str) -> None:
    """Who sees a heading can write a condition with it; so with the key."""
    for figure in of_report(report):
        if figure.is_number:
            side = "" if report == "score" else "k."
            for name in (figure.title, figure.key):
                assert parse_gate(f"{side}{name}>1", report).measure == figure.key


@pytest.mark.parametrize(
    ("text", "attention", "words"),
    [
        ("layers.9.k.p1<1", True, "this dump has k of layers 0-1, 3"),
        ("layers.3.v.p1<1", True, "this dump has v of layers 0"),
        ("k.output_error>1", False, "output_error needs queries; dump with --queries"),
    ],
)
def test_places_are_checked_before_measuring(text: str, attention: bool, words: str) -> None:
    """What the dump cannot answer is known from its header."""
    places = {(0, "k"), (1, "k"), (3, "k"), (0, "v")}
    for fine in ("k.p1<1", "layers.*.v.nmse>1", "layers.3.k.nmse>1"):
        check_places([parse_gate(fine)], places, attention=False)
    with pytest.raises(UsageError, match=re.escape(words)):
        check_places([parse_gate(text)], places, attention=attention)


def test_comparisons_have_no_layers() -> None:
    """A condition on a layer would never be met there."""
    with pytest.raises(UsageError, match=r"no rows of layers; write k\.nmse>"):
        parse_gate("layers.0.k.nmse>1", "compare")


def test_rows_without_sides() -> None:
    """A score's rows speak of K and V together, and are named by type and mode."""
    rows = [{"name": "turbo3", "mode": "prefix", "kl_mean": 0.01}]
    apply_gates([parse_gate("kl mean>0.02", "score")], rows)
    with pytest.raises(GateError, match=r"kl_mean>0\.005: 1 row, first turbo3 \(prefix\): kl_mean"):
        apply_gates([parse_gate("kl_mean>0.005", "score")], rows)


def test_one_line_names_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    """All gates that failed, in one line; nothing is printed by the library."""
    gates = [parse_gate(t) for t in ("layers.*.k.p1<1", "v.p1<0.5", "k.kurtosis>=1")]
    with pytest.raises(GateError) as caught:
        apply_gates(gates, ROWS)
    assert str(caught.value) == (
        "gate failed: layers.*.k.p1<1: 2 rows, first 0.k: cosine_p1 = 0.95; "
        "k.kurtosis>=1: 1 row, first all.k: kurtosis = 1"
    )
    assert caught.value.exit_code == 1
    assert capsys.readouterr() == ("", "")
    apply_gates([parse_gate("v.p1<0.5")], ROWS)
