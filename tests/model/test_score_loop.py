"""A small random model whose cache goes through codecs: what is attended to is what is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqcli import codecs
from tqcli.codecs import codec
from tqcli.codecs.plain import PlainCodec
from tqcli.errors import InputError, UsageError
from tqcli.model import proof
from tqcli.model.age import reading
from tqcli.model.cache import make_writers, on_the_fly, replaced
from tqcli.model.compare import score_plans
from tqcli.model.corpus import Corpus
from tqcli.model.layers import centers_of, probe
from tqcli.model.loop import Loop
from tqcli.model.score import MODES, ON_THE_FLY, PREFIX, Scores, score, total_tokens
from tqcli.model.state import State
from tqcli.model.subject import Subject
from tqcli.model.sweep import cached_layers, explain_sweep, sweep_plans, sweep_rows
from tqcli.plan.plan import Plan
from tqcli.plan.rules import parse_rule
from tqcli.plan.side import SidePlan
from tqcli.plan.tokens import Tokens
from tqcli.plan.types import SideType, parse_type
from tqcli.sources.hf.forward import forward

pytestmark = pytest.mark.model
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LAYERS = 3
TOKENS = 96
WINDOW = 16
VOCABULARY = 97


def tiny(name: str = "Llama", **config: Any) -> Any:
    """Four query heads over two KV heads of 64; wide weights, so that attention matters."""
    torch.manual_seed(11)
    base = {
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "head_dim": 64,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 512, "initializer_range": 0.25,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    made = getattr(transformers, f"{name}Config")(**(base | config))
    return transformers.AutoModelForCausalLM.from_config(made).eval()


def subject_of(model: Any, texts: int = 2) -> Subject:
    """Random tokens for a model."""
    tokens = np.random.default_rng(13).integers(3, VOCABULARY, (texts, TOKENS))
    return Subject(model, tokens.tolist(), {"model": type(model).__name__})


def plan_of(k: str, v: str | None = None, **options: Any) -> Plan:
    """A plan from names."""
    return Plan(parse_type(k, "k"), parse_type(v or k, "v"), **options)


@pytest.fixture(scope="module")
def subject() -> Subject:
    """A llama."""
    return subject_of(tiny())


def kl(scores: Scores) -> dict[tuple[str, str], float]:
    """Mean KL by name and mode."""
    return {(row["name"], row["mode"]): row["kl_mean"] for row in scores.rows()}


@pytest.mark.parametrize(
    ("name", "config"), [("Llama", {}), ("Mistral", {"sliding_window": WINDOW})]
)
def test_float_cache_changes_nothing(name: str, config: dict[str, Any]) -> None:
    """f32 through the whole machinery gives the very same logits, sliding windows included."""
    made = score(subject_of(tiny(name, **config)), [plan_of("f32")], modes=MODES)
    rows = [row for row in made.rows() if row["name"] == "f32"]
    assert [(row["mode"], row["kl_max"], row["logit_change"]) for row in rows] == [
        (mode, 0.0, 0.0) for mode in MODES
    ]
    assert all(row["elements_replaced"] == 0 < row["elements_written"] for row in rows)


def test_fewer_bits_cost_more(subject: Subject) -> None:
    """In both modes, and K and V are set apart."""
    plans = [plan_of(name) for name in ("q8_0", "turbo4", "turbo2")]
    found = kl(score(subject, [*plans, plan_of("q8_0", "turbo2")], modes=MODES))
    for mode in MODES:
        order = [found[name, mode] for name in ("f16", "q8_0", "turbo4", "turbo2", "canary")]
        assert order == sorted(order)
        assert found["q8_0", mode] < found["q8_0/turbo2", mode] < found["turbo2", mode]
        assert found["turbo2", mode] > 100 * found["f16", mode]


def test_written_values_are_the_codec_s(subject: Subject) -> None:
    """Layer 0 depends on the tokens alone: its cache is, bit for bit, the decoded float cache."""
    model, tokens = subject.model, subject.sequences[0]
    loop, plain = Loop(model, chunk_size=7), transformers.DynamicCache(config=model.config)
    with torch.inference_mode():
        loop.read(tokens, plain)
        shapes = [s for s in probe(model, tokens).shapes if s.layer < 2]
        writers = make_writers(plan_of("turbo3", "q4_0", keep_first=5), shapes, {})
        cache = on_the_fly(model.config, writers)
        loop.read(tokens, cache)
    for side, name in (("keys", "turbo3"), ("values", "q4_0")):
        exact = getattr(plain.layers[0], side).numpy()
        stored = getattr(cache.layers[0], side).numpy()
        made = codec(name)
        np.testing.assert_array_equal(
            stored[:, :, 5:], made.decode(made.encode(exact[:, :, 5:]), 64)
        )
        np.testing.assert_array_equal(stored[:, :, :5], exact[:, :, :5].astype(np.float16))
    assert not np.array_equal(plain.layers[1].keys.numpy(), cache.layers[1].keys.numpy())


def test_replaced_prefix_leaves_the_float_cache_alone(subject: Subject) -> None:
    """Every plan starts from the same float cache, and sliding layers know their positions."""
    for model in (subject.model, tiny("Mistral", sliding_window=WINDOW)):
        cache = transformers.DynamicCache(config=model.config)
        with torch.inference_mode():
            Loop(model).read(subject.sequences[0], cache)
            before = [layer.keys.clone() for layer in cache.layers]
            keep, shapes = TOKENS - 10, probe(model, subject.sequences[0]).shapes
            made = replaced(cache, make_writers(plan_of("turbo2", keep_first=keep), shapes, {}))
        for layer, new, old in zip(cache.layers, made.layers, before, strict=True):
            assert torch.equal(layer.keys, old)
            assert torch.equal(new.keys[:, :, :-10], old[:, :, :-10].half().float())
            assert not torch.equal(new.keys[:, :, -10:], old[:, :, -10:].half().float())


def test_chunks_and_token_by_token_agree(subject: Subject) -> None:
    """Tokens of one pass attend to each other's stored values, as they would one at a time."""
    whole, seven, single = (
        kl(score(subject, [plan_of("turbo4")], modes=[ON_THE_FLY], chunk_size=size))
        for size in (TOKENS, 7, 1)
    )
    key = ("turbo4", ON_THE_FLY)
    assert seven[key] == pytest.approx(whole[key], rel=0.02)
    assert single[key] == pytest.approx(whole[key], rel=0.02)


def test_centring_takes_an_offset_away() -> None:
    """Keys that share a large constant are destroyed by turbo4 and saved by +center.

    With turbo3 this model suffers as much without the constant, which no mean can take away.
    """
    model = tiny("Qwen2")
    with torch.no_grad():
        for layer in model.model.layers:
            # The slowest pairs of RoPE keep what is added to them over this many tokens.
            layer.self_attn.k_proj.bias.view(2, 2, 32)[:, :, 24:] = 60.0
    plain, centred = plan_of("turbo4", "q8_0"), plan_of("turbo4+center", "q8_0")
    found = kl(score(subject_of(model), [plain, centred], modes=MODES))
    for mode in MODES:
        assert found[centred.name, mode] < 0.2 * found[plain.name, mode]


def test_means_are_of_keys_before_rope(subject: Subject) -> None:
    """Without the sinks, whose keys are unlike the others."""
    model, tokens = subject.model, subject.sequences[0]
    cache = transformers.DynamicCache(config=model.config)
    with torch.inference_mode():
        Loop(model).read(tokens, cache)
        layers = probe(model, tokens)
        hidden = model.model.layers[0].input_layernorm(
            model.model.embed_tokens(torch.tensor([tokens]))
        )
        keys = model.model.layers[0].self_attn.k_proj(hidden)[0].view(TOKENS, 2, 64)
    assert layers.ropes is not None
    center = centers_of(plan_of("turbo3+center", "turbo3"), cache, layers.ropes, {})[0]
    expected = keys[4:].mean(dim=0).numpy()
    # two roundings: float32 RoPE and back, then float16
    np.testing.assert_allclose(center.mean, expected, rtol=2e-3, atol=1e-4)


def test_loop_stores_what_files_store(subject: Subject) -> None:
    """One implementation: K of layer 0 written in chunks is, bit for bit, SidePlan's."""
    model, tokens = subject.model, subject.sequences[0]
    plan = plan_of("turbo3+center", "turbo3", keep_first=4)
    plain = transformers.DynamicCache(config=model.config)
    with torch.inference_mode():
        loop, layers = Loop(model, chunk_size=7), probe(model, tokens)
        loop.read(tokens, plain)
        assert layers.ropes is not None
        centers = centers_of(plan, plain, layers.ropes, {})
        cache = on_the_fly(model.config, make_writers(plan, layers.shapes, centers))
        loop.read(tokens, cache)
    side = SidePlan(plan, 0, "k", 2, 64, centers[0])
    keys = plain.layers[0].keys.numpy()
    expected = side.load(side.store(keys, Tokens.of_text(0, TOKENS)))
    np.testing.assert_array_equal(cache.layers[0].keys.numpy(), expected)


def test_prefix_keeps_its_last_tokens(subject: Subject) -> None:
    """The last of the replaced cache are float16, the one before them is not."""
    model, tokens = subject.model, subject.sequences[0]
    cache = transformers.DynamicCache(config=model.config)
    with torch.inference_mode():
        Loop(model).read(tokens, cache)
        writers = make_writers(plan_of("turbo2", keep_last=9), probe(model, tokens).shapes, {})
        made = replaced(cache, writers)
    for new, old in zip(made.layers, cache.layers, strict=True):
        half = old.values.half().float()
        assert torch.equal(new.values[:, :, -9:], half[:, :, -9:])
        assert not torch.equal(new.values[:, :, -10], half[:, :, -10])


@pytest.mark.parametrize(
    ("name", "config"), [("Llama", {}), ("Mistral", {"sliding_window": WINDOW})]
)
@pytest.mark.parametrize("keep", [1, 5, 20])
def test_last_tokens_on_the_fly(name: str, config: dict[str, Any], keep: int) -> None:
    """Passes of many tokens give what a cache gives whose tokens are replaced one by one."""
    # In a single layer K and V depend on the tokens alone: no rounding grows into another code.
    subject = subject_of(tiny(name, num_hidden_layers=1, **config), texts=1)
    model, tokens = subject.model, subject.sequences[0]
    plan = plan_of("turbo3", "q4_0", keep_first=2, keep_last=keep)
    expected, found = _one_by_one(model, tokens, plan), []
    for size in (1, 7, TOKENS):
        with torch.inference_mode():
            writers = make_writers(replace(plan, keep_last=0), probe(model, tokens).shapes, {})
            cache = on_the_fly(model.config, writers, keep)
            with reading(model, keep):
                logits = Loop(model, size).logits(tokens, cache)
            found.append(logits)
    # The reference's query sees itself before it is rounded to float16.
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-2)
    # Products of other shapes round otherwise, and some values then to the next float16.
    for logits in found[1:]:
        torch.testing.assert_close(logits, found[0], rtol=0, atol=2e-3)
    assert model.config._attn_implementation == "sdpa"


def _one_by_one(model: Any, tokens: list[int], plan: Plan) -> Any:
    """Logits of a plain cache whose tokens are put through the codec once they are old."""
    cache, rows = transformers.DynamicCache(config=model.config), []
    exact: dict[str, dict[int, Any]] = {"keys": {}, "values": {}}
    with torch.inference_mode():
        for at, token in enumerate(tokens):
            # Before the query writes itself, keep - 1 tokens are young.
            old = at - plan.keep_last
            for layer in cache.layers if at else ():
                place = layer.keys.shape[2] - plan.keep_last
                for side, name in (("keys", "turbo3"), ("values", "q4_0")):
                    states, made = getattr(layer, side), codec(name)
                    if old >= plan.keep_first and place >= 0:
                        one = exact[side].pop(old).numpy()
                        states[:, :, place] = torch.from_numpy(made.decode(made.encode(one), 64))
            rows.append(forward(model, torch.tensor([[token]]), cache).logits[0, -1])
            for layer in cache.layers:
                for side in exact:
                    exact[side][at] = getattr(layer, side)[:, :, -1].clone()
                    getattr(layer, side)[:, :, -1] = exact[side][at].half()
    return torch.stack(rows)


def test_last_tokens_need_attention_with_a_mask() -> None:
    """One line before anything runs."""
    subject = subject_of(tiny(attn_implementation="eager"))
    with pytest.raises(UsageError, match=r"--keep-last on the fly: .*use --mode prefix"):
        score(subject, [plan_of("turbo3", keep_last=4)], modes=[ON_THE_FLY])


def test_bits_count_kept_tokens_and_means(subject: Subject) -> None:
    """48 tokens of turbo3 padded to 128 values, 4 of them in float16, one mean a head."""
    plan = plan_of("turbo3+center", "turbo3", keep_first=4)
    row = next(r for r in score(subject, [plan]).rows() if r["name"] == plan.name)
    assert row["bits_v"] == (4 * 64 * 16 + 44 * 50 * 8) / (48 * 64)
    assert row["bits_k"] == row["bits_v"] + 64 * 16 / (48 * 64)


def test_rules_reach_their_layer_only(subject: Subject) -> None:
    """--layer 1:v=turbo2 over float changes V of layer 1 and nothing else."""
    plan = plan_of("f32", rules=(parse_rule("1:v=turbo2"),))
    made = score(subject, [plan])
    effects = made.texts[PREFIX, 1][0].effects
    assert {name for name, effect in effects.items() if effect.changed} == {"layers.1.v"}


Patch = Callable[[str, Callable[..., Any]], None]


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Make the codec of one name another."""

    def patch(name: str, make: Callable[..., Any]) -> None:
        real = codecs.codec

        def chosen(wanted: str, **options: Any) -> Any:
            return make(**options) if wanted == name else real(wanted, **options)

        monkeypatch.setattr(codecs, "codec", chosen)

    return patch


@pytest.mark.parametrize("mode", MODES)
def test_vacuous_codec_is_found(subject: Subject, instead: Patch, mode: str) -> None:
    """An identity that goes by the name of turbo2 scores perfectly, and must not pass."""
    instead("turbo2", lambda **_: PlainCodec("f32"))
    with pytest.raises(proof.ProofError, match=r"proof of effect.*turbo2.*layers\.0\.k.* 0 of"):
        score(subject, [plan_of("turbo2")], modes=[mode])


def test_one_vacuous_side_is_found(subject: Subject, instead: Patch) -> None:
    """V that stays float hides behind a K that does not."""
    real = codec("turbo2")
    instead("turbo2", lambda side=None, **_: PlainCodec("f32") if side == "v" else real)
    with pytest.raises(proof.ProofError, match=r"layers\.0\.v"):
        score(subject, [plan_of("turbo2")])


def test_cache_that_is_not_read_is_found() -> None:
    """A model without attention output feels no cache."""
    model = tiny()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    with pytest.raises(proof.ProofError, match="no logit changed"):
        score(subject_of(model), [plan_of("turbo2")])


def test_model_that_hardly_attends_fails_the_canary() -> None:
    """If broken caches score well, so would broken codecs."""
    model = tiny()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(1e-3)
    with pytest.raises(proof.ProofError, match="canary"):
        score(subject_of(model), [plan_of("turbo2")])


def test_misplaced_cache_fails_the_identity(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that are one token off from their values are no measure of a codec."""
    from tqcli.model import writer

    real = writer.SideWriter.__call__

    def misplaced(self: writer.SideWriter, states: Any, first: int) -> Any:
        return real(self, states, first).roll(1 if self.side == "k" else 0, dims=2)

    monkeypatch.setattr(writer.SideWriter, "__call__", misplaced)
    with pytest.raises(proof.ProofError, match="identity"):
        score(subject, [plan_of("turbo2")])


def test_interrupted_run_goes_on(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after five results: these are not measured again, and the rows are the same."""
    path, plans = tmp_path / "state.json", [plan_of("turbo3"), plan_of("turbo2")]
    steps: list[int] = []

    def stop(tokens: int) -> None:
        steps.append(tokens)
        if len(steps) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(subject, plans, state=path, progress=stop)
    measured: list[str] = []
    real = State.put
    monkeypatch.setattr(State, "put", lambda *a: measured.append(a[1]) or real(*a))
    again: list[int] = []
    continued = score(subject, plans, state=path, progress=again.append)
    assert len(measured) == 2 * 4 - 5
    assert sum(again) == total_tokens(subject, plans, [PREFIX])
    assert continued.rows() == score(subject, plans).rows()
    with pytest.raises(InputError, match="another model, text or setting"):
        score(subject, plans, state=path, chunk_size=16)


def test_sweeps(subject: Subject) -> None:
    """One layer at a time costs less than all; leaving any one float saves something."""
    layers, plan = cached_layers(subject), plan_of("turbo2")
    alone = score(subject, sweep_plans(plan, layers, "layers"))
    rows = sweep_rows(alone, layers, "layers")
    mine = {row["layer"]: row["kl_mean"] for row in rows if row["layer"] is not None}
    whole = next(row["kl_mean"] for row in rows if row["name"] == "turbo2")
    assert list(mine) == layers
    assert max(mine.values()) < whole
    dearest = max(mine, key=lambda layer: mine[layer])
    assert f"layers {dearest} (" in explain_sweep(rows, "layers")[0]
    rest = score(subject, sweep_plans(plan, layers, "all-but-one"))
    for layer, row in zip(layers, sweep_rows(rest, layers, "all-but-one")[2:], strict=False):
        assert (row["layer"], row["name"]) == (layer, f"all but layer {layer}")
        assert mine[layer] != row["kl_mean"] > min(mine.values())


def test_nan_in_the_model_is_one_line(subject: Subject) -> None:
    """A weight that is NaN is named by where it shows first."""
    model = tiny()
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"layers\.1\.k: .*NaN or Inf"):
        score(subject_of(model), [plan_of("turbo3")])


def saved(folder: Path) -> Path:
    """A tiny model with a tokenizer of one token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    tiny().save_pretrained(folder)
    return folder


def test_model_from_disk(tmp_path: Path) -> None:
    """What ``tq compare --model`` calls: rows in the order asked for, and one line if too short."""
    folder = saved(tmp_path)
    text = " ".join(f"w{i}" for i in np.random.default_rng(17).integers(3, VOCABULARY, 128))
    pairs = [("turbo2", "turbo2"), ("q8_0", "turbo3"), ("f16", "f16")]
    plans = [plan_of(k, v) for k, v in pairs]
    rows = score_plans(str(folder), plans, corpus=Corpus((text,), chunks=2, context=64))
    assert [(row["k"], row["v"]) for row in rows] == pairs
    assert rows[0]["kl_mean"] > rows[1]["kl_mean"] > rows[2]["kl_mean"]
    with pytest.raises(InputError, match="128 tokens; 3 windows of 64 need 192"):
        score_plans(str(folder), plans, corpus=Corpus((text,), chunks=3, context=64))
    for options, message in (
        ({"compute_dtype": "int8"}, "compute-dtype: 'int8'"),
        ({"device": "nowhere"}, "--device nowhere: .*cpu is always there"),
        ({"corpus": Corpus((text,), context=513)}, "513; .* reads at most 512 tokens"),
    ):
        asked: dict[str, Any] = {"corpus": Corpus((text,), chunks=1, context=64), **options}
        with pytest.raises(UsageError, match=message):
            score_plans(str(folder), plans, **asked)


def test_f32_type_is_exact_in_a_half_precision_model(subject: Subject) -> None:
    """Sweeps leave layers as f32: in bfloat16, too, that must be the model's own cache."""
    half = Subject(tiny().to(torch.bfloat16), subject.sequences, {"model": "half"})
    made = score(half, [Plan(SideType("f32"), SideType("f32"))])
    row = next(row for row in made.rows() if row["name"] == "f32")
    assert (row["kl_max"], row["elements_replaced"]) == (0.0, 0)
