"""Gates: conditions that must never be passed by accident."""

from __future__ import annotations

from typing import Any

import pytest

from tqcli.errors import GateError, UsageError
from tqcli.report.gate import apply_gates, parse_gate

ROWS: list[dict[str, Any]] = [
    {"layer": 0, "side": "k", "head": None, "cosine_p1": 0.95, "nmse": 0.03, "seen": 2.0},
    {"layer": 0, "side": "k", "head": 1, "cosine_p1": 0.10, "nmse": 0.9, "seen": 2.0},
    {"layer": 3, "side": "k", "head": None, "cosine_p1": 0.99, "nmse": 0.01, "seen": None},
    {"layer": 3, "side": "v", "head": None, "cosine_p1": 0.98, "nmse": 0.02, "seen": None},
    {"layer": "all", "side": "k", "head": None, "cosine_p1": 0.97, "nmse": 0.02, "seen": 1.0},
    {"layer": "all", "side": "v", "head": None, "cosine_p1": 0.98, "nmse": 0.02, "seen": None},
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
        ("layers.*.k.seen>1", 1),
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


@pytest.mark.parametrize("text", ["k.p2<1", "layers.9.k.p1<1", "layers.3.v.seen>0", "v.seen>1"])
def test_no_such_figure(text: str) -> None:
    """Nothing to judge is no success: the error lists what there is."""
    with pytest.raises(UsageError, match=r"no such figure here; measures: .*nmse"):
        failures(text)


def test_one_line_names_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    """All gates that failed, in one line; nothing is printed by the library."""
    gates = [parse_gate(t) for t in ("layers.*.k.p1<1", "v.p1<0.5", "k.seen>=1")]
    with pytest.raises(GateError) as caught:
        apply_gates(gates, ROWS)
    assert str(caught.value) == (
        "gate failed: layers.*.k.p1<1: 2 rows, first 0.k: cosine_p1 = 0.95; "
        "k.seen>=1: 1 rows, first all.k: seen = 1"
    )
    assert caught.value.exit_code == 1
    assert capsys.readouterr() == ("", "")
    apply_gates([parse_gate("v.p1<0.5")], ROWS)
