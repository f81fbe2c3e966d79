"""Verdicts from figures alone: limits, sums, layers to blame, the last line."""

import pytest

from tqcli.metrics.verdict import (
    CENTRED,
    LAYER,
    MODEL,
    conclude,
    cured,
    faults,
    judge,
    judge_all,
    name_layers,
)


def row(layer, side="k", error=None, **more):
    """One row of an evaluation."""
    return {"layer": layer, "side": side, "head": None, "output_error": error, **more}


def judged(errors, side="k"):
    """Rows of layers with these output errors, and the row of all."""
    rows = [row(layer, side, error) for layer, error in enumerate(errors)]
    rows.append(row("all", side, sum(errors)))
    judge_all(rows)
    return rows


@pytest.mark.parametrize("rule", [LAYER, MODEL, CENTRED])
def test_limits_belong_to_the_worse_side(rule):
    """A figure on a limit has reached it."""
    assert rule.level(rule.degraded * 0.999) == "fine"
    assert rule.level(rule.degraded) == "degraded"
    assert rule.level(rule.collapse) == "collapse"
    assert f">= {rule.collapse:g}" in rule.because(rule.collapse)


def test_output_error_comes_before_what_stands_in_for_it():
    """With queries the centred error decides nothing: it may be large where nobody looks."""
    seen = judge(row(1, error=0.01, centred_nmse=1.5))
    blind = judge(row(1, centred_nmse=1.5))
    assert (seen.level, blind.level) == ("fine", "collapse")
    assert "centred" in blind.by
    assert judge(row(1)) is None


def test_each_side_has_its_own_stand_in():
    """V has no offset that softmax ignores: its plain error counts."""
    assert judge(row(1, "v", nmse=1.0)).level == "collapse"
    assert judge(row(1, "k", nmse=1.0)) is None


def test_many_fine_layers_make_a_degraded_model():
    """Thirty layers of .1 are each fine and together not: all of them are to blame."""
    rows = judged([0.1] * 30)
    assert rows[-1]["verdict"] == "degraded"
    assert faults(rows, "k") == list(range(30))
    assert not cured(rows[:-1])
    assert cured(rows[:10])


def test_single_layers_are_blamed_alone():
    """The others need no dearer type; the worst comes first."""
    rows = judged([0.3, 1.3, 0.01, 0.02])
    assert faults(rows, "k") == [1, 0]
    assert rows[-1]["verdict"] == "collapse"
    assert rows[-1]["verdict_by"].startswith("layer 1: ")


def test_rows_without_figures_stay_unjudged():
    """Nothing to judge by is no verdict, not a good one."""
    rows = [row(0), row("all")]
    judge_all(rows)
    assert [r["verdict"] for r in rows] == [None, None]
    assert "nothing to judge by" in conclude(rows)


def test_last_line():
    """Level, layers and number at fault, remedy: in one line."""
    rows = judged([1.3, 0.3, 0.01]) + judged([0.01, 0.01, 0.01], "v")
    line = conclude(rows, "turbo3,layers=0-1:k=q8_0")
    assert line == (
        "verdict: collapse; at fault: K of layers 0-1 (collapse: layer 0: output error 1.3 >= "
        "0.75); use this: turbo3,layers=0-1:k=q8_0"
    )
    assert "none of the known plans cures it" in conclude(rows)
    assert conclude(judged([0.01])).startswith("verdict: fine; K output error")


def test_layers_in_words():
    """Runs are joined, whatever order they come in."""
    assert name_layers([7, 2, 1, 0]) == "layers 0-2, 7"
    assert name_layers([3]) == "layer 3"
