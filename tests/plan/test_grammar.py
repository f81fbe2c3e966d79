"""Plans as text, options, flags and files: one grammar, and whatever is written is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqcli.errors import InputError, UsageError
from tqcli.plan.document import dumps, read_plan
from tqcli.plan.grammar import PlanOptions, parse_plan
from tqcli.plan.plan import Plan
from tqcli.plan.references import Book
from tqcli.plan.rules import parse_rule
from tqcli.plan.types import SideType, parse_type

BASES = ["turbo3", "turbo3-g64", "q8_0", "q4_0+rot", "q4_0+rot128", "f16", "turbo3@2026-03"]
K_TYPES = st.builds(
    lambda base, center: base + "+center" * center, st.sampled_from(BASES), st.booleans()
)
V_TYPES = st.sampled_from(BASES)
RULES = st.builds(
    lambda layers, k, v: (
        f"{','.join(map(str, layers))}:" + ",".join(filter(None, (k and f"k={k}", v and f"v={v}")))
    ),
    st.sets(st.integers(0, 40), min_size=1),
    K_TYPES,
    st.none() | V_TYPES,
)
PLANS = st.builds(
    lambda k, v, first, last, rules: Plan(
        parse_type(k, "k"), parse_type(v, "v"), tuple(map(parse_rule, rules)), first, last
    ),
    K_TYPES,
    V_TYPES,
    st.integers(0, 300),
    st.integers(0, 300),
    st.lists(RULES, max_size=3),
)
OPTIONS = {
    "-ctk": "cache_type_k", "-ctv": "cache_type_v", "--keep-first": "keep_first",
    "--keep-last": "keep_last", "--layer": "layers", "--codebook-k": "codebook_k",
    "--codebook-v": "codebook_v", "--calibration": "calibration",
}  # fmt: skip


def from_flags(words: list[str]) -> Plan:
    """The plan that flags make, as a command line would read them."""
    given: dict[str, Any] = {"layers": []}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        name = OPTIONS[flag]
        if name == "layers":
            given["layers"].append(value)
        else:
            given[name] = int(value) if name.startswith("keep") else value
    paths = {k: Path(v) for k, v in given.items() if k.startswith(("codebook", "calib"))}
    return PlanOptions(**(given | paths)).one()


@given(PLANS)
def test_written_and_read_back(plan: Plan) -> None:
    """As text, as flags, as a JSON object: the same plan."""
    from tqcli.plan.document import from_json, to_json

    assert parse_plan(str(plan)) == plan
    assert from_flags(plan.flags()) == plan
    assert from_json(json.loads(json.dumps(to_json(plan)))) == plan
    assert parse_plan(str(plan)).identity() == plan.identity()


def test_commas_belong_to_rules() -> None:
    """Commas of a rule belong to the rule; the parts may come in any order."""
    plan = parse_plan("turbo3+center/turbo3,layers=0-1,27:k=q8_0,v=f16,keep-last=32,keep-first=4")
    assert (plan.keep_first, plan.keep_last) == (4, 32)
    assert str(plan.k) == "turbo3+center"
    assert [str(plan.type_of(layer, "k")) for layer in (0, 1, 2, 27)] == [
        "q8_0", "q8_0", "turbo3+center", "q8_0",
    ]  # fmt: skip
    assert str(plan) == (
        "turbo3+center/turbo3,keep-first=4,keep-last=32,layers=0-1,27:k=q8_0,v=f16"
    )


@pytest.mark.parametrize("text", ["q4_0+rot+center", "q4_0+center+rot"])
def test_modifiers_in_any_order(text: str) -> None:
    """+rot belongs to the codec, +center stands around it."""
    made = parse_type(text, "k")
    assert (made.name, made.center, str(made)) == ("q4_0+rot", True, "q4_0+rot+center")


@pytest.mark.parametrize("text", ["", "turbo9", "turbo3+rot", "turbo3+centre", "canary", "+center"])
def test_unknown_types(text: str) -> None:
    """Refused before a file is opened, with what is known."""
    with pytest.raises(UsageError, match=r"tq types.*\+center"):
        parse_type(text, "k")


def test_v_is_not_centred() -> None:
    """Softmax ignores the mean of K alone; the line says what to write."""
    with pytest.raises(UsageError, match=r"write turbo3 for V, as in turbo3\+center/turbo3"):
        parse_plan("turbo3+center")
    with pytest.raises(UsageError, match="for K"):
        parse_plan("turbo3,layers=0:v=q8_0+center")


@pytest.mark.parametrize(
    "text",
    ["", "0", "0:", ":k=q8_0", "0:q8_0", "0:q=q8_0", "0:k=", "3-1:k=q8_0", "-1:k=q8_0",
     "a:k=q8_0", "0:k=q8_0=f16", "0-:k=q8_0", "0:k=q8_0,k=f16", "0-999999999:k=q8_0"],
)  # fmt: skip
def test_rules_that_are_none(text: str) -> None:
    """One line that shows how a rule looks."""
    with pytest.raises(UsageError, match="LAYERS:SIDE=TYPE"):
        parse_rule(text)


@pytest.mark.parametrize(
    "text",
    ["turbo3,4", "turbo3,first=4", "turbo3,keep-first", "turbo3,keep-first=", "turbo3,keep-first=x",
     "turbo3,keep-first=-1", "turbo3,keep-first=1,keep-first=2", "a/b/c", "/turbo3",
     "turbo3,keep-last=4,k=q8_0", "turbo3,,keep-first=4"],
)  # fmt: skip
def test_texts_that_are_none(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(UsageError, match=r"plan|type"):
        parse_plan(text)


def test_later_rules_win_and_sides_are_apart() -> None:
    """A rule for K leaves V as it was."""
    made = parse_plan("turbo3/turbo2,layers=0-2,5:k=q8_0,layers=1:k=f16,v=q4_0")
    assert [str(made.type_of(layer, "k")) for layer in (0, 1, 2, 3, 5)] == [
        "q8_0", "f16", "q8_0", "turbo3", "q8_0",
    ]  # fmt: skip
    assert [str(made.type_of(layer, "v")) for layer in (0, 1, 2)] == ["turbo2", "q4_0", "turbo2"]


def test_layers_that_are_not_there() -> None:
    """A typing error must not measure the wrong cache; a range may cross a hybrid model's gaps."""
    made = parse_plan("turbo3,layers=2-40:k=q8_0")
    made.check_layers(range(41))
    with pytest.raises(UsageError, match=r"layer 30; this model has 0-29"):
        made.check_layers(range(30))
    parse_plan("turbo3,layers=0-7:k=q8_0").check_layers([3, 7, 11])
    with pytest.raises(UsageError, match="layer 4; kv has 3,7,11"):
        parse_plan("turbo3,layers=4-5:k=q8_0").check_layers([3, 7, 11], "kv")


def test_only_leaves_the_rest_float() -> None:
    """What a sweep scores: the plan's own types, rules included, in the layers named."""
    made = parse_plan("turbo3/turbo2,layers=4:k=q8_0")
    one = made.only(frozenset({4}), frozenset(range(6)), "layer 4 only")
    assert [str(one.type_of(4, side)) for side in ("k", "v")] == ["q8_0", "turbo2"]
    assert {one.type_of(layer, side) for layer in (0, 1, 2, 3, 5) for side in ("k", "v")} == {
        SideType("f32")
    }
    assert one.name == "layer 4 only"


def test_options_of_a_command_line() -> None:
    """-t and -ctk exclude each other; options complete plans that do not say their own number."""
    assert str(PlanOptions().one()) == "turbo3"
    assert str(PlanOptions(cache_type_v="q8_0").one()) == "turbo3/q8_0"
    plans = PlanOptions(
        types=["turbo3,keep-first=8", "q8_0"], keep_first=4, layers=["0:k=f16"]
    ).plans()
    assert list(map(str, plans)) == [
        "turbo3,keep-first=8,layers=0:k=f16", "q8_0,keep-first=4,layers=0:k=f16",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="not both"):
        PlanOptions(types=["turbo3"], cache_type_k="q8_0").plans()
    with pytest.raises(UsageError, match="2 plans"):
        PlanOptions(types=["turbo3", "q8_0"]).one()
    with pytest.raises(UsageError, match="keep-first"):
        PlanOptions(keep_first=-1).plans()
    assert PlanOptions().plans(default=["q8_0", "turbo2"])[1].k.name == "turbo2"


def test_codebooks(root: Path, tmp_path: Path) -> None:
    """By path in flags and files, by content in identities and records."""
    path = root / "codebooks" / "gaussian-3bit.json"
    plan = PlanOptions(cache_type_v="turbo2", codebook_k=path).one()
    assert plan.k.codebook is not None
    assert plan.v.codebook is None
    assert from_flags(plan.flags()) == plan
    file = tmp_path / "plan.json"
    file.write_text(dumps(plan))
    assert read_plan(file) == plan
    assert plan.record()["codebooks"] == {
        "k": {"id": "gaussian-3bit", "checksum": plan.k.codebook.checksum}
    }
    assert str(root) not in json.dumps(plan.record())
    with pytest.raises(UsageError, match="both sides"):
        PlanOptions(codebook=path, codebook_k=path).plans()
    with pytest.raises(UsageError, match="takes no codebook"):
        PlanOptions(cache_type_k="q8_0", codebook=path).plans()


def test_relative_paths_begin_at_the_plan_file(root: Path, tmp_path: Path) -> None:
    """A plan and its codebook can be moved together; one that changed since is refused."""
    text = (root / "codebooks" / "gaussian-3bit.json").read_text()
    (tmp_path / "mine.json").write_text(text)
    document = {"schema": "tq.plan/1", "k": "turbo3", "v": "turbo3"}
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(document | {"codebooks": {"v": "mine.json"}}))
    book = read_plan(file).v.codebook
    assert isinstance(book, Book)
    stale = {"file": "mine.json", "checksum": "blake3:" + "0" * 64}
    file.write_text(json.dumps(document | {"codebooks": {"v": stale}}))
    with pytest.raises(InputError, match="has changed since"):
        read_plan(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "tq.plan/9"}, "schema 'tq.plan/9'"),
        ({"k": None}, "k: None"),
        ({"k": "turbo9"}, "unknown cache type"),
        ({"v": "turbo3+center"}, "is for K"),
        ({"layers": "0:k=q8_0"}, "layers"),
        ({"layers": [7]}, "layers: 7"),
        ({"keep_first": -1}, "keep-first"),
        ({"keep_first": True}, "keep_first: True"),
        ({"keep_last": 1.5}, "keep_last"),
        ({"keeplast": 4}, "key 'keeplast'"),
        ({"calibration": 5}, "calibration: 5"),
        ({"calibration": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"codebooks": {"k": "nowhere.json"}}, "nowhere.json"),
    ],
)
def test_plan_files_that_are_none(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """One line that names the file and the key."""
    document = {"schema": "tq.plan/1", "k": "turbo3", "v": "turbo3"}
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(document | change))
    with pytest.raises(InputError, match=message) as caught:
        read_plan(file)
    assert str(caught.value).startswith(str(file))


def test_identity_tells_plans_apart(root: Path) -> None:
    """Results on disk are found by it: whatever changes the bytes changes it, a name does not."""
    book = root / "codebooks" / "gaussian-3bit.json"
    texts = [
        "turbo3", "turbo3/turbo2", "turbo3+center/turbo3", "turbo3,keep-first=4",
        "turbo3,keep-last=4", "turbo3,layers=0:k=q8_0", "turbo3,layers=0:v=q8_0",
    ]  # fmt: skip
    plans = [*map(parse_plan, texts), PlanOptions(codebook_k=book).one()]
    assert len({made.identity() for made in plans}) == len(plans)
    labelled = Plan(SideType("turbo3"), SideType("turbo3"), label="mine")
    assert (plans[0].identity(), labelled.name) == (labelled.identity(), "mine")
