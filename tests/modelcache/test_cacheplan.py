"""Names, modifiers and rules of cache plans."""

from __future__ import annotations

from pathlib import Path

import pytest

from tqcli.codebook import read_codebook
from tqcli.errors import UsageError
from tqcli.model.cacheplan import CachePlan, SideType, parse_rule, parse_type


def plan(k: str, v: str, **options: object) -> CachePlan:
    """From names."""
    return CachePlan(parse_type(k, "k"), parse_type(v, "v"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["q4_0+rot+center", "q4_0+center+rot"])
def test_modifiers_in_any_order(text: str) -> None:
    """+rot belongs to the codec, +center stands around it."""
    made = parse_type(text, "k")
    assert (made.name, made.center, str(made)) == ("q4_0+rot", True, "q4_0+rot+center")


@pytest.mark.parametrize("text", ["", "turbo9", "turbo3+rot", "turbo3+centre", "canary", "+center"])
def test_unknown_types(text: str) -> None:
    """Refused before a model is loaded."""
    with pytest.raises(UsageError):
        parse_type(text, "k")


def test_v_is_not_centred() -> None:
    """Softmax ignores the mean of K alone; the line says what to write."""
    with pytest.raises(UsageError, match=r"write turbo3 for V, as in turbo3\+center/turbo3"):
        parse_type("turbo3+center", "v")


@pytest.mark.parametrize(
    "text",
    ["", "0", "0:", ":k=q8_0", "0:q8_0", "0:q=q8_0", "0:k=", "3-1:k=q8_0", "-1:k=q8_0",
     "a:k=q8_0", "0:k=q8_0=f16", "0-:k=q8_0"],
)  # fmt: skip
def test_rules_that_are_none(text: str) -> None:
    """One line that shows how a rule looks."""
    with pytest.raises(UsageError, match="LAYERS:SIDE=TYPE"):
        parse_rule(text)


def test_later_rules_win_and_sides_are_apart() -> None:
    """A rule for K leaves V as it was."""
    rules = tuple(map(parse_rule, ["0-2,5:k=q8_0", "1:k=f16,v=q4_0"]))
    made = plan("turbo3", "turbo2", rules=rules)
    assert " ".join(map(str, rules)) == "0,1,2,5:k=q8_0 1:k=f16,v=q4_0"
    assert [str(made.type_of(layer, "k")) for layer in (0, 1, 2, 3, 5)] == [
        "q8_0", "f16", "q8_0", "turbo3", "q8_0",
    ]  # fmt: skip
    assert [str(made.type_of(layer, "v")) for layer in (0, 1, 2)] == ["turbo2", "q4_0", "turbo2"]


def test_rule_beyond_the_model() -> None:
    """A typing error in a layer number must not score the wrong cache."""
    made = plan("turbo3", "turbo3", rules=(parse_rule("2-40:k=q8_0"),))
    made.check_layers(41)
    with pytest.raises(UsageError, match="layer 30; this model has 0 to 29"):
        made.check_layers(30)


def test_only_leaves_the_rest_float() -> None:
    """What a sweep scores: the plan's own types, rules included, in the layers named."""
    made = plan("turbo3", "turbo2", rules=(parse_rule("4:k=q8_0"),))
    one = made.only(frozenset({4}), frozenset(range(6)), "layer 4 only")
    assert [str(one.type_of(4, side)) for side in ("k", "v")] == ["q8_0", "turbo2"]
    assert {one.type_of(layer, side) for layer in (0, 1, 2, 3, 5) for side in ("k", "v")} == {
        SideType("f32")
    }


def test_names() -> None:
    """As one would write them on the command line."""
    assert plan("turbo3", "turbo3").name == "turbo3"
    assert plan("q8_0", "turbo3").name == "q8_0/turbo3"
    assert plan("turbo3+center", "turbo3", keep_first=4).name == (
        "turbo3+center/turbo3, first 4 float"
    )


def test_identity_tells_plans_apart(root: Path) -> None:
    """Results on disk are found by it: whatever changes the bytes changes it."""
    book = read_codebook(root / "codebooks" / "gaussian-3bit.json")
    plans = [
        plan("turbo3", "turbo3"),
        plan("turbo3+center", "turbo3"),
        plan("turbo3", "turbo3", keep_first=4),
        plan("turbo3", "turbo3", rules=(parse_rule("0:k=q8_0"),)),
        plan("turbo3", "turbo3", rules=(parse_rule("0:v=q8_0"),)),
        CachePlan(SideType("turbo3", codebook=book), SideType("turbo3")),
    ]
    assert len({made.identity() for made in plans}) == len(plans)
    assert plans[0].identity() == plan("turbo3", "turbo3", label="mine").identity()


def test_negative_keep_first() -> None:
    """Not a number of tokens."""
    with pytest.raises(UsageError, match="keep-first"):
        plan("turbo3", "turbo3", keep_first=-1)
