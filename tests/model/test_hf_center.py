"""Centring before RoPE on what transformers computes: every kind of RoPE gives the same mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqcli.errors import InputError
from tqcli.kv.dump import open_dump
from tqcli.pipeline.calibrate import calibrate, evidence_of
from tqcli.pipeline.dump import write_dump
from tqcli.pipeline.evidence import BiasEvidence
from tqcli.plan.calibration import open_calibration
from tqcli.plan.center import own_center
from tqcli.plan.grammar import parse_plan
from tqcli.plan.side import SidePlan
from tqcli.plan.tokens import Tokens
from tqcli.rope import Rope, remove_rope
from tqcli.sources.hf.bias import bias_of
from tqcli.sources.hf.prefill import Prefill
from tqcli.sources.hf.spool import hand_out

pytestmark = pytest.mark.model
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS, SHORT = 100, 40
ORIGINAL = 64  # tokens up to which the scaled models were trained, between the two lengths
FACTORS = {
    "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
}
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "longrope": {"factor": 8.0, **FACTORS},
}  # fmt: skip


def tiny(name: str = "Llama", kind: str = "default", **config: Any) -> Any:
    """A random model; the weights do not depend on the RoPE."""
    torch.manual_seed(5)
    base = {
        "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": ORIGINAL,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    rope = {"rope_type": kind, "rope_theta": 1e4, **ROPES[kind]}
    if kind not in ("default", "linear", "dynamic"):
        rope["original_max_position_embeddings"] = ORIGINAL
        base["max_position_embeddings"] = 8 * ORIGINAL
    made = getattr(transformers, f"{name}Config")(**(base | {"rope_parameters": rope} | config))
    return transformers.AutoModelForCausalLM.from_config(made).eval()


def keys(model: Any, folder: Path, count: int) -> tuple[np.ndarray, Rope]:
    """K of layer 0 after RoPE, (1, heads, count, dim), and what RoPE was found to do."""
    tokens = np.random.default_rng(7).integers(3, 97, TOKENS)[:count].tolist()
    run = Prefill(model, [tokens], folder, queries=False, chunk_size=count)
    run.run()
    name = "layers.0.k"
    return hand_out(run.spools[name], (count,), "float32", name), run.rope(0)


def center_of(k: np.ndarray, rope: Rope) -> Any:
    """The own mean of keys."""
    tokens = Tokens.of_text(0, k.shape[2])
    return own_center([(0, k.reshape(-1, k.shape[-1]))], k.shape, tokens, rope, "k")


@pytest.mark.parametrize("count", [SHORT, TOKENS])
@pytest.mark.parametrize("kind", ROPES)
def test_k_before_rope_is_the_same_under_every_kind(tmp_path: Path, kind: str, count: int) -> None:
    """Keys of layer 0 depend on tokens and weights alone, and so does their mean."""
    plain, default = keys(tiny(), tmp_path / "a", count)
    scaled, rope = keys(tiny(kind=kind), tmp_path / "b", count)
    assert rope.kind == kind
    before = remove_rope(plain, np.arange(count), default)
    np.testing.assert_allclose(remove_rope(scaled, np.arange(count), rope), before, atol=2e-5)
    if kind != "default" and not (kind == "dynamic" and count == SHORT):
        assert np.abs(scaled - plain).max() > 0.05  # RoPE itself is another one
    means = [center_of(k, one).mean for k, one in ((plain, default), (scaled, rope))]
    np.testing.assert_allclose(means[1], means[0], rtol=2**-9, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("GPTNeoX", {}),  # a quarter of each head is turned
        ("Glm", {"head_dim": 16}),  # half of it, in neighbouring pairs
        ("Cohere2", {"sliding_window": 16}),
        ("Qwen3", {"head_dim": 32}),  # a norm stands before RoPE
        ("Phi3", {"kind": "longrope"}),
    ],
)
def test_what_is_taken_away_is_added_back(
    tmp_path: Path, name: str, config: dict[str, Any]
) -> None:
    """With a codec that keeps float32, the model's own keys come back within one rounding."""
    k, rope = keys(tiny(name, **config), tmp_path, TOKENS)
    assert rope.kind in ("default", "longrope")
    center = center_of(k, rope)
    before = remove_rope(k, np.arange(TOKENS), rope)
    np.testing.assert_allclose(center.mean, before[0, :, 4:].mean(axis=1), rtol=2**-9, atol=1e-4)
    one = SidePlan(parse_plan("f32+center/f32"), 0, "k", k.shape[1], k.shape[3], center)
    np.testing.assert_allclose(one.load(one.store(k)), k, atol=1e-6 * np.abs(k).max())


def test_bias_for_a_mean(tmp_path: Path) -> None:
    """Qwen2's key projection has one; it is the mean where the input has none."""
    model = tiny("Qwen2")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.k_proj.bias.normal_(0, 3)
    biases, ropes = bias_of(model, "tiny")
    bias = model.model.layers[1].self_attn.k_proj.bias.detach().numpy().reshape(2, 16)
    np.testing.assert_array_equal(biases[1], bias)
    assert ropes[0].kind == "default"
    path = tmp_path / "cal.safetensors"
    (row, _) = calibrate([BiasEvidence({"kind": "transformers"}, ropes, biases)], path)
    assert (row["tokens"], row["residual"]) == (0, None)
    k, rope = keys(model, tmp_path / "kv", TOKENS)
    source = {"rope": rope.to_json()}
    with open_calibration(path) as made:
        center = made.center(0, (2, 16), source, Tokens.of_text(0, TOKENS))
    out = np.empty(k.shape[2:], np.float32)
    center.take(k[0, 0], 0, Tokens.of_text(0, TOKENS), 0, 0, out)
    assert (out**2).sum() < 0.1 * (k[0, 0] ** 2).sum()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: tiny("Llama"), "layer 0 has none"),
        (lambda: tiny("Qwen3", head_dim=16, attention_bias=True), "a norm follows it"),
    ],
)
def test_models_without_a_bias(model: Any, message: str) -> None:
    """The line says what to do instead."""
    with pytest.raises(InputError, match=f"tiny: no bias of k_proj .*{message}.*dumps of texts"):
        bias_of(model(), "tiny")


def test_calibrated_on_one_text_used_on_another(text_file: Path, tmp_path: Path) -> None:
    """SmolLM2's dumps say what is needed; the mean of one half of a text serves the other."""
    from tqcli.sources.hf.prompts import Prompts
    from tqcli.sources.hf.source import Options, TransformersSource

    text, paths = text_file.read_text(), []
    for number, part in enumerate((text[: len(text) // 2], text[len(text) // 2 :])):
        prompts = Prompts(texts=(part,), context=400)
        with TransformersSource("smollm2", prompts, Options(queries=True)) as source:
            source.run()
            paths.append(tmp_path / f"{number}.safetensors")
            write_dump(source, paths[-1])
    out = tmp_path / "cal.safetensors"
    with open_dump(paths[0]) as dump:
        calibrate([evidence_of(dump)], out)
    with open_dump(paths[1]) as other, open_calibration(out) as made:
        assert made.identity.tokenizer_sha256 == other.source["tokenizer_sha256"]
        tensor = other.get(15, "k")
        assert tensor is not None
        k, tokens = tensor.stored.read(), Tokens.of_dump(other, 1, 400)
        center = made.center(15, (3, 64), other.source, tokens)
    out_k = np.empty((400, 64), np.float32)
    left = power = 0.0
    for head in range(3):
        center.take(k[0, head], head, tokens, 0, 0, out_k)
        left += float((out_k[4:].astype(np.float64) ** 2).sum())
        power += float((k[0, head, 4:].astype(np.float64) ** 2).sum())
    assert left < 0.35 * power
