"""Results of the model's runs: pooling, files, proofs and texts; no model is needed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tqcli.errors import GateError, InputError, UsageError
from tqcli.model import proof
from tqcli.model.corpus import Corpus, builtin_texts
from tqcli.model.divergence import Divergence, pooled
from tqcli.model.score import parse_modes, with_proofs
from tqcli.model.state import State
from tqcli.model.writer import Effect
from tqcli.plan.plan import Plan
from tqcli.plan.types import SideType

PLAN = Plan(SideType("turbo2"), SideType("f16"))


def text(seed: int, positions: int = 40) -> Divergence:
    """Random figures."""
    rng = np.random.default_rng(seed)
    kl, nll, nll_float = rng.exponential(size=(3, positions))
    effects = {"layers.0.k": Effect(1000, 990, 250), "layers.0.v": Effect(1000, 0, 2000)}
    return Divergence(kl, (kl < 1).astype(float), nll[1:], nll_float[1:], 3.5, effects)


def test_pooling_takes_all_positions_together() -> None:
    """Texts of unequal length weigh by their positions."""
    texts = [text(3), text(4, 25)]
    kl = np.concatenate([t.kl for t in texts])
    row = pooled(texts)
    assert row["kl_mean"] == kl.mean()
    assert row["kl_max"] == kl.max()
    assert row["kl_p99"] == np.quantile(kl, 0.99)
    assert row["kl_se"] == pytest.approx(np.sqrt(kl.var(ddof=1) / 65))
    assert row["positions"] == 65
    assert (row["elements_written"], row["elements_replaced"]) == (4000, 1980)
    assert row["bits_per_value"] == 8 * 2250 / 2000
    assert row["perplexity_ratio"] == pytest.approx(row["perplexity"] / row["perplexity_float"])


def test_state_comes_back_exactly(tmp_path: Path) -> None:
    """Every bit of every figure: a continued run must report what an unbroken one does."""
    path = tmp_path / "state.json"
    first = State("abc", path)
    first.put("x", text(5))
    first.put("y", text(6))
    again = State("abc", path)
    assert list(again.done) == ["x", "y"]
    for name in ("kl", "same_top1", "nll", "nll_float"):
        np.testing.assert_array_equal(getattr(again.done["y"], name), getattr(text(6), name))
    assert pooled(list(again.done.values())) == pooled(list(first.done.values()))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"schema": "tq.evaluate/1"}',
                '{"schema": "tq.score-state/1", "fingerprint": "abc", "done": {"x": {}}}',
                '{"schema": "tq.score-state/1", "fingerprint": "abc", "done": []}']
)  # fmt: skip
def test_files_that_are_no_state(tmp_path: Path, content: str) -> None:
    """Never overwritten, never half believed."""
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(InputError, match="state"):
        State("abc", path)
    assert path.read_text() == content


def test_state_of_another_run(tmp_path: Path) -> None:
    """Another model's figures under this model's name would be worse than none."""
    path = tmp_path / "state.json"
    State("abc", path).put("x", text(5))
    with pytest.raises(InputError, match="another model"):
        State("abd", path)
    assert json.loads(path.read_text())["fingerprint"] == "abc"


def test_effect_must_show_in_every_quantized_side() -> None:
    """K is turbo2 and changed; V is f16 and may stay as it is."""
    good = text(7)
    proof.require_effect("turbo2/f16", PLAN, [good])
    idle = replace(good, effects={**good.effects, "layers.3.k": Effect(1000, 0, 250)})
    with pytest.raises(proof.ProofError, match=r"layers\.3\.k \(turbo2\): 0 of 1,000"):
        proof.require_effect("turbo2/f16", PLAN, [good, idle])
    with pytest.raises(proof.ProofError, match="no logit changed"):
        proof.require_effect("turbo2/f16", PLAN, [replace(good, logit_change=0.0)])


def test_limits_of_identity_and_canary() -> None:
    """NaN passes neither; a failed proof exits like a failed gate."""
    proof.require_identity("prefix", 1e-6)
    proof.require_canary("prefix", 2.0)
    for value in (0.5, float("nan")):
        with pytest.raises(GateError, match="identity failed"):
            proof.require_identity("prefix", value)
    for value in (1e-3, float("nan")):
        with pytest.raises(GateError, match="canary failed"):
            proof.require_canary("prefix", value)
    assert proof.ProofError.exit_code == 1


def test_proofs_are_always_there() -> None:
    """Identity first, canary last, plans that are the same once."""
    plan = Plan(SideType("turbo3"), SideType("turbo3"))
    f16 = Plan(SideType("f16"), SideType("f16"))
    assert [p.name for p in with_proofs([plan, f16, plan])] == ["f16", "turbo3", "canary"]
    with pytest.raises(UsageError, match="two different caches"):
        with_proofs([plan, replace(f16, label="turbo3")])


def test_modes() -> None:
    """One, the other or both."""
    assert parse_modes("prefix") == ("prefix",)
    assert parse_modes("both") == ("prefix", "on-the-fly")
    with pytest.raises(UsageError, match="on-the-fly"):
        parse_modes("suffix")


def test_builtin_texts_are_long_and_differ() -> None:
    """At four to six letters a token, 4,500 letters are enough for a thousand of them."""
    texts = builtin_texts()
    assert len(texts) == len(set(texts)) == 8
    assert min(map(len, texts)) > 4500


def test_corpus_that_cannot_be_meant() -> None:
    """Refused before a model is looked for."""
    for options in ({"chunks": 0}, {"context": 4}, {"chunks": 9}, {"first": 4, "chunks": 5}):
        with pytest.raises(UsageError):
            Corpus(**options)
    assert Corpus(("own text",), chunks=9).chunks == 9


def test_builtin_texts_too_short_for_the_context() -> None:
    """A tokenizer of one token a word cannot fill a window of 4,096."""

    class Words:
        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": list(range(len(text.split())))}

    with pytest.raises(InputError, match="give your own text with -f"):
        Corpus(context=4096).sequences(Words())
    assert [len(s) for s in Corpus(context=64, chunks=2).sequences(Words())] == [64, 64]
