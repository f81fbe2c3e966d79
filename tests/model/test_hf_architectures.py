"""Small random models of many architectures: what is dumped is what the model computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqcli.errors import InputError
from tqcli.rope import apply_rope, remove_rope
from tqcli.sources.hf.attention import attention_modules, output_gram, output_weight
from tqcli.sources.hf.layers import plan_layers
from tqcli.sources.hf.prefill import Prefill
from tqcli.sources.hf.spool import hand_out

pytestmark = pytest.mark.model
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS = 100
WINDOW = 16
SLIDING = ["sliding_attention", "full_attention"] * 2
NO_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tiny(name: str, **config: Any) -> Any:
    """A model of four layers, four query heads and two KV heads, its weights from a fixed seed."""
    torch.manual_seed(5)
    base = {
        "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        **NO_TOKENS,
    }  # fmt: skip
    made = getattr(transformers, f"{name}Config")(**(base | config))
    return transformers.AutoModelForCausalLM.from_config(made).eval()


ROPE_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
ROPE_YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128
}  # fmt: skip
ROPE_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}

Make = Callable[[], Any]
# kind of RoPE, pair layout and rotary dimensions of every layer that has K and V
MODELS: dict[str, tuple[Make, dict[int, tuple[str, str, int]]]] = {
    "llama": (lambda: tiny("Llama"), dict.fromkeys(range(4), ("default", "half", 16))),
    "llama, one KV head": (
        lambda: tiny("Llama", num_key_value_heads=1),
        dict.fromkeys(range(4), ("default", "half", 16)),
    ),
    "llama3 scaling": (
        lambda: tiny("Llama", rope_parameters=ROPE_LLAMA3),
        dict.fromkeys(range(4), ("llama3", "half", 16)),
    ),
    "yarn scaling": (
        lambda: tiny("Llama", rope_parameters=ROPE_YARN),
        dict.fromkeys(range(4), ("yarn", "half", 16)),
    ),
    "qwen2": (lambda: tiny("Qwen2"), dict.fromkeys(range(4), ("default", "half", 16))),
    "qwen3, norm before RoPE": (
        lambda: tiny("Qwen3", head_dim=32),
        dict.fromkeys(range(4), ("default", "half", 32)),
    ),
    "mistral, sliding": (
        lambda: tiny("Mistral", sliding_window=WINDOW),
        dict.fromkeys(range(4), ("default", "half", 16)),
    ),
    "gemma2, softcap": (
        lambda: tiny("Gemma2", head_dim=32, sliding_window=WINDOW),
        dict.fromkeys(range(4), ("default", "half", 32)),
    ),
    "gemma3, two bases": (
        lambda: tiny("Gemma3Text", head_dim=32, sliding_window=WINDOW, layer_types=SLIDING),
        dict.fromkeys(range(4), ("default", "half", 32)),
    ),
    "phi3, one projection": (
        lambda: tiny("Phi3"),
        dict.fromkeys(range(4), ("default", "half", 16)),
    ),
    "neox, partial": (lambda: tiny("GPTNeoX"), dict.fromkeys(range(4), ("default", "half", 4))),
    "glm, partial and interleaved": (
        lambda: tiny("Glm", head_dim=16),
        dict.fromkeys(range(4), ("default", "interleaved", 8)),
    ),
    "cohere2, only sliding layers rotate": (
        lambda: tiny("Cohere2", sliding_window=WINDOW, layer_types=SLIDING),
        {i: ("none", "half", 0) if i % 2 else ("default", "interleaved", 16) for i in range(4)},
    ),
    "smollm3, every other layer rotates": (
        lambda: tiny("SmolLM3", no_rope_layers=[1, 0, 1, 0]),
        {i: ("none", "half", 0) if i % 2 else ("default", "half", 16) for i in range(4)},
    ),
    "qwen3-next, hybrid": (
        lambda: tiny(
            "Qwen3Next", head_dim=32, layer_types=["linear_attention"] * 3 + ["full_attention"],
            num_experts=2, num_experts_per_tok=1, moe_intermediate_size=32,
            shared_expert_intermediate_size=32, linear_num_key_heads=2, linear_num_value_heads=4,
            linear_key_head_dim=16, linear_value_head_dim=16,
        ),
        {3: ("default", "half", 8)},
    ),
    "jamba, hybrid without RoPE": (
        lambda: tiny(
            "Jamba", attn_layer_period=2, attn_layer_offset=1, num_experts=2, mamba_d_state=8,
            mamba_dt_rank=4,
        ),
        dict.fromkeys((1, 3), ("none", "half", 0)),
    ),
    "lfm2, hybrid": (
        lambda: tiny("Lfm2", layer_types=["conv", "full_attention"] * 2),
        dict.fromkeys((1, 3), ("default", "half", 16)),
    ),
}  # fmt: skip


@pytest.fixture(params=list(MODELS))
def case(request: pytest.FixtureRequest) -> tuple[Any, dict[int, tuple[str, str, int]]]:
    """A model, and what RoPE does in it."""
    make, ropes = MODELS[request.param]
    return make(), ropes


def sequences(*lengths: int) -> list[list[int]]:
    """Random token ids."""
    rng = np.random.default_rng(7)
    return [rng.integers(3, 97, length).tolist() for length in lengths]


def run(model: Any, folder: Path, texts: list[list[int]], **options: Any) -> Prefill:
    """A prefill with queries."""
    prefill = Prefill(model, texts, folder, **({"queries": True, "chunk_size": 32} | options))
    prefill.run()
    return prefill


def side(prefill: Prefill, index: int, which: str) -> np.ndarray:
    """One tensor in float32."""
    name = f"layers.{index}.{which}"
    return hand_out(prefill.spools[name], prefill.lengths, "float32", name)


def reference(model: Any, tokens: list[int]) -> tuple[Any, list[Any]]:
    """Cache and attention weights of one pass over everything, by transformers alone."""
    cache = transformers.DynamicCache(config=model.config)
    for layer in cache.layers:
        if hasattr(layer, "activate_past_recording") and hasattr(layer, "sliding_window"):
            layer.activate_past_recording()  # else a sliding layer drops its first tokens
    model.set_attn_implementation("eager")
    decoder = model.get_decoder()
    is_new = "cache" in inspect.signature(decoder.forward).parameters
    options: dict[str, Any] = {"cache" if is_new else "past_key_values": cache}
    with torch.inference_mode():
        output = decoder(
            input_ids=torch.tensor([tokens]), use_cache=True, output_attentions=True, **options
        )
    return cache, [a for a in output.attentions if a is not None]


def test_cache_is_what_the_model_caches(case: tuple[Any, Any], tmp_path: Path) -> None:
    """K and V of every layer, run in chunks through spools, are those of one whole pass."""
    model, ropes = case
    texts = sequences(TOKENS, TOKENS)
    prefill = run(model, tmp_path, texts)
    assert set(prefill.plan.kinds) == set(ropes)
    assert set(prefill.plan.skipped) == set(range(4)) - set(ropes)
    for batch, tokens in enumerate(texts):
        cache, _ = reference(model, tokens)
        for index in ropes:
            for which, theirs in (
                ("k", cache.layers[index].keys),
                ("v", cache.layers[index].values),
            ):
                ours = side(prefill, index, which)[batch]
                expected = theirs[0].numpy()[:, -TOKENS:]
                assert ours.shape[1] == TOKENS
                np.testing.assert_allclose(
                    ours[:, -expected.shape[1] :], expected, atol=2e-6 * np.abs(expected).max()
                )


def test_rope_is_found(case: tuple[Any, Any], tmp_path: Path) -> None:
    """Kind, layout and dimensions are right; K survives the way back before RoPE and forth."""
    model, ropes = case
    prefill = run(model, tmp_path, sequences(TOKENS))
    for index, expected in ropes.items():
        rope = prefill.rope(index)
        assert (rope.kind, rope.pairs, rope.rotary_dims) == expected
        k, positions = side(prefill, index, "k"), np.arange(TOKENS)
        back = apply_rope(remove_rope(k, positions, rope), positions, rope)
        gap = np.linalg.norm(back - k, axis=-1) / np.linalg.norm(k, axis=-1)
        assert gap.max() < 1e-6


def test_queries_reproduce_attention(case: tuple[Any, Any], tmp_path: Path) -> None:
    """softmax(scale * Q.K) under mask and window is what the model attends with."""
    model, ropes = case
    (tokens,) = texts = sequences(TOKENS)
    prefill = run(model, tmp_path, texts)
    _, attentions = reference(model, tokens)
    assert len(attentions) == len(ropes)
    place = np.arange(TOKENS)
    for index, theirs in zip(sorted(ropes), attentions, strict=True):
        q, k = side(prefill, index, "q")[0], side(prefill, index, "k")[0]
        facts = prefill.state.facts[str(index)]
        scores = facts["scale"] * q @ np.repeat(k, q.shape[0] // k.shape[0], 0).swapaxes(1, 2)
        if "softcap" in facts:
            scores = facts["softcap"] * np.tanh(scores / facts["softcap"])
        seen = place[:, None] >= place
        if index in prefill.plan.windows:
            seen &= place[:, None] - place < prefill.plan.windows[index]
        weights = np.exp(np.where(seen, scores - scores.max(-1, keepdims=True), -np.inf))
        weights /= weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(weights, theirs[0].numpy(), atol=2e-6)


def test_attention_is_put_back(tmp_path: Path) -> None:
    """Recording queries leaves the model as it was, and changes nothing that it computes."""
    model = tiny("Llama")
    texts = sequences(70)
    before = model.config._attn_implementation
    with_queries = run(model, tmp_path / "a", texts)
    assert model.config._attn_implementation == before
    without = run(model, tmp_path / "b", texts, queries=False)
    assert side(with_queries, 3, "k").tobytes() == side(without, 3, "k").tobytes()


def test_unequal_prompts_follow_each_other(tmp_path: Path) -> None:
    """There is no padding: each prompt's rows are what it gives alone."""
    model = tiny("Qwen2")
    texts = sequences(40, 7, 33)
    together = side(run(model, tmp_path / "all", texts), 2, "k")
    assert together.shape == (1, 2, 80, 16)
    alone = [side(run(model, tmp_path / str(i), [t]), 2, "k") for i, t in enumerate(texts)]
    assert together.tobytes() == np.ascontiguousarray(np.concatenate(alone, axis=2)).tobytes()


class StopError(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("name", ["llama", "gemma2, softcap", "qwen3-next, hybrid"])
@pytest.mark.parametrize("calls", [1, 2, 4, 6])
def test_interrupted_run_continues(name: str, calls: int, tmp_path: Path) -> None:
    """Broken off anywhere and continued, the tensors are bit for bit those of one run."""
    model, texts = MODELS[name][0](), sequences(TOKENS, 50)
    unbroken = run(model, tmp_path / "a", texts)
    seen = []

    def stop(count: int) -> None:
        seen.append(count)
        if len(seen) == calls:
            raise StopError

    folder = tmp_path / "b"
    try:
        run(model, folder, texts, progress=stop)
    except StopError:
        first = sum(seen)
        seen.clear()
        for spool in folder.glob("*.spool"):  # what came after the journal is not trusted
            spool.write_bytes(spool.read_bytes() + b"half a row")
        again = run(model, folder, texts, progress=lambda count: seen.append(count))
        if "hybrid" not in name:
            assert first + sum(seen) == TOKENS + 50
    else:
        again = run(model, folder, texts, progress=lambda count: seen.append(-1))
        assert -1 not in seen  # nothing was left to do
    for index in unbroken.plan.kinds:
        for which in "kvq":
            assert side(again, index, which).tobytes() == side(unbroken, index, which).tobytes()
    assert again.state == unbroken.state


def test_work_of_another_run_is_not_taken(tmp_path: Path) -> None:
    """A journal counts only for the same model, tokens and options; damage is an error."""
    model = tiny("Llama")
    run(model, tmp_path, sequences(40), fingerprint="a")
    done: list[int] = []
    run(model, tmp_path, sequences(40), fingerprint="b", progress=done.append)
    assert sum(done) == 40
    (tmp_path / "layers.1.v.spool").write_bytes(b"")
    with pytest.raises(InputError, match="shorter"):
        run(model, tmp_path, sequences(40), fingerprint="b")
    (tmp_path / "journal.json").write_text("{")
    with pytest.raises(InputError, match="not a journal"):
        run(model, tmp_path, sequences(40), fingerprint="b")


def test_frequencies_that_follow_the_length(tmp_path: Path) -> None:
    """Dynamic scaling: one pass is right, chunks are refused and told how to go on."""
    model = tiny("Llama", max_position_embeddings=64, rope_parameters=ROPE_DYNAMIC)
    with pytest.raises(InputError, match="--chunk-size 100"):
        run(model, tmp_path / "a", sequences(TOKENS))
    prefill = run(model, tmp_path / "b", sequences(TOKENS), chunk_size=TOKENS)
    short = run(model, tmp_path / "c", sequences(30), chunk_size=TOKENS)
    assert prefill.rope(0).inv_freq != short.rope(0).inv_freq
    with torch.inference_mode():
        model.model.rotary_emb(torch.zeros(1), torch.arange(TOKENS)[None])
    now = [float(f) for f in model.model.rotary_emb.inv_freq]
    assert list(prefill.rope(0).inv_freq) == now


def test_models_without_k_and_v(tmp_path: Path) -> None:
    """A state-space model is refused by name, before or after its first pass."""
    config = transformers.MambaConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=8
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(InputError, match="MambaForCausalLM"):
        run(model, tmp_path, sequences(10), queries=False)


def test_model_without_the_attention_interface(tmp_path: Path) -> None:
    """Its queries cannot be had; the error says how to go on, and that works."""
    config = transformers.BloomConfig(vocab_size=97, hidden_size=64, n_layer=2, n_head=4)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(InputError, match="without --queries"):
        run(model, tmp_path / "a", sequences(10))
    prefill = run(model, tmp_path / "b", sequences(10), queries=False)
    assert side(prefill, 1, "k").shape == (1, 4, 10, 16)


def test_another_cache_class_is_named() -> None:
    """A layer that keeps more than K and V is an error with the class in it."""
    config = transformers.LlamaConfig(
        num_hidden_layers=2, layer_types=["full_attention", "indexed_attention"]
    )
    with pytest.raises(InputError, match="DynamicIndexedLayer"):
        plan_layers(config)


def test_latent_attention_is_refused() -> None:
    """Its cache holds a latent and a RoPE part under the names of keys and values."""
    with pytest.raises(InputError, match="DeepseekV3Config: latent"):
        plan_layers(transformers.DeepseekV3Config(num_hidden_layers=2))


def test_norm_after_rope_is_unknown(tmp_path: Path) -> None:
    """Where a norm follows RoPE no rotation takes K back, and none is pretended."""
    prefill = run(tiny("HunYuanDenseV1", head_dim=32), tmp_path, sequences(20))
    assert {prefill.rope(index).kind for index in range(4)} == {"unknown"}


def test_layers_that_share_k_and_v(tmp_path: Path) -> None:
    """Layers that read another layer's cache are named and skipped."""
    model = tiny(
        "Gemma3nText", head_dim=32, num_kv_shared_layers=2, sliding_window=WINDOW,
        layer_types=SLIDING, vocab_size_per_layer_input=97, hidden_size_per_layer_input=8,
        laurel_rank=4, activation_sparsity_pattern=[0.0] * 4, intermediate_size=[96] * 4,
    )  # fmt: skip
    prefill = run(model, tmp_path, sequences(40))
    assert set(prefill.plan.kinds) == {0, 1}
    assert set(prefill.plan.skipped) == {2, 3}
    assert "shares" in prefill.plan.skipped[3]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_output_gram(kv_heads: int) -> None:
    """The Gram matrix gives the energy that errors in a group's query heads have after W_o."""
    model = tiny("Llama", num_key_value_heads=kv_heads)
    weight = output_weight(attention_modules(model)[1], 64)
    gram = output_gram(weight, kv_heads, 16)
    assert gram.shape == (kv_heads, 16, 16)
    assert gram.dtype == np.float32
    columns = weight.detach().double().numpy()
    error = np.random.default_rng(11).standard_normal((kv_heads, 16))
    for group in range(kv_heads):
        energy = 0.0
        for head in range(4):
            if head // (4 // kv_heads) == group:
                energy += np.square(columns[:, head * 16 : head * 16 + 16] @ error[group]).sum()
        assert error[group] @ gram[group] @ error[group] == pytest.approx(energy, rel=1e-5)


def test_dtype_of_the_model_is_kept(tmp_path: Path) -> None:
    """A bfloat16 model's K passes through the spool bit for bit."""
    model = tiny("Llama").to(torch.bfloat16)
    (tokens,) = texts = sequences(30)
    prefill = run(model, tmp_path, texts, queries=False)
    cache, _ = reference(model, tokens)
    ours = hand_out(prefill.spools["layers.0.v"], (30,), "bfloat16", "layers.0.v")
    theirs = cache.layers[0].values.view(torch.uint16).numpy()
    np.testing.assert_array_equal(ours.view(np.uint16), theirs)
    assert prefill.rope(0).kind == "default"
