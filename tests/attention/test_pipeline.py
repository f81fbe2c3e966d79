"""Whole dumps: real tensors, planted faults, and dumps whose parts do not fit together."""

import numpy as np
import pytest
from scipy.linalg import hadamard

from tqcli import codecs, kernels, rotation
from tqcli.codecs.turbo import TurboCodec
from tqcli.errors import InputError, UsageError
from tqcli.kernels import attend as kernel
from tqcli.kv.dump import open_dump
from tqcli.kv.packed import open_packed
from tqcli.pipeline.attention import AttentionOptions, evaluate_attention
from tqcli.pipeline.candidate import Candidate, DumpCandidate, PackedCandidate, plan_candidates
from tqcli.pipeline.decoded import Source
from tqcli.pipeline.judge import evaluate_and_judge, parse_queries
from tqcli.pipeline.quantize import quantize
from tqcli.plan.grammar import parse_plan

ALL = AttentionOptions(0)


def types(k, v=None):
    """Makes a candidate of a dump, by the names of its types."""
    return lambda dump: plan_candidates(dump, [parse_plan(f"{k}/{v or k}")])[0]


def attention(path, candidate, options=ALL, **more):
    """Attention measures of a dump."""
    with open_dump(path) as dump:
        return evaluate_attention(dump, candidate(dump), options, **more)


def verdicts(path, candidate, options=ALL):
    """(layer, side) -> verdict, and the last line."""
    with open_dump(path) as dump:
        judged = evaluate_and_judge(dump, candidate(dump), options)
    found = {(row["layer"], row["side"]): row["verdict"] for row in judged.rows}
    return found, judged.notes[-1]


class RotationLeftOut(TurboCodec):
    """A decoder that forgets to rotate back."""

    def _decode(self, flat, rotated, dtype):
        return super()._decode(flat, True, dtype)


class Planted(Candidate):
    """One codec for K and one for V."""

    def __init__(self, k, v):
        self.codecs = {"k": k, "v": v}

    def source(self, tensor):
        """Every piece goes through the codec of its side."""
        codec = self.codecs[tensor.side]

        def pieces(count):
            for _ in range(0, tensor.vectors, count):
                yield lambda _, x, checked: codec.decode(codec.encode(x), x.shape[-1])

        return Source(codec.id, (codec,), codec.bits_per_value(tensor.shape[3]), pieces)

    def head(self, tensor, row, x):
        """The same for one head."""
        codec = self.codecs[tensor.side]
        return codec.decode(codec.encode(x), x.shape[-1])


def broken_on(side):
    """A backend without the inverse rotation on one side."""
    broken, good = RotationLeftOut("turbo3"), codecs.codec("turbo3")
    return Planted(broken, good) if side == "k" else Planted(good, broken)


def test_equals_plain_float64_on_real_layers(smollm, plain):
    """Grouped heads, files and threads: the pipeline gives what plain attention gives."""
    found = attention(smollm, types("turbo3"))
    codec = codecs.codec("turbo3")
    with open_dump(smollm) as dump:
        k, v, q = (dump.get(15, side).stored.read().astype(np.float32)[0] for side in "kvq")
    k_new, v_new = (codec.decode(codec.encode(x), 64) for x in (k, v))
    heads = [plain(q[3 * h : 3 * h + 3], k[h], k_new[h], v[h], v_new[h], 0.125) for h in range(3)]
    row = found.figures(15, "k")
    for name in ("attention_kl", "top1"):
        assert row[name] == pytest.approx(np.mean([h[name] for h in heads]), rel=1e-4)
    assert row["attention_kl_max"] == pytest.approx(
        max(h["attention_kl_max"] for h in heads), rel=1e-4
    )
    squares = np.mean([h["score_rmse"] ** 2 for h in heads])
    assert row["score_rmse"] == pytest.approx(np.sqrt(squares), rel=1e-4)


def test_packed_scores_by_kernel_agree(qwen):
    """Attention straight from the packed bytes, as an engine does it, errs by the same energy."""
    codec = codecs.codec("turbo3")
    with open_dump(qwen) as dump:
        k, v, q = (dump.get(14, side).stored.read().astype(np.float32)[0] for side in "kvq")
    tokens, group, scale = k.shape[1], q.shape[0] // k.shape[0], 128**-0.5
    hidden = np.triu(np.ones((tokens, tokens), bool), 1)
    error = signal = 0.0
    for head, queries in enumerate(q):
        keys, values = k[head // group], v[head // group]
        packed = [codec.encode(x).reshape(tokens, -1) for x in (keys, values)]
        scores = kernel.scores(_rotate(queries), packed[0], codec.layout)
        weights = [_weights(scale * s, hidden) for s in (queries @ keys.T, scores)]
        out = weights[0] @ values
        summed = kernel.weighted_sum(weights[1], packed[1], codec.layout)
        error += float(np.sum((_rotate(summed, inverse=True) - out) ** 2))
        signal += float(np.sum(out**2))
    found = attention(qwen, types("turbo3"), layers=[14])
    assert found.figures(14, "k")["output_error_both"] == pytest.approx(error / signal, rel=1e-3)


def _rotate(x, inverse=False):
    """Rotate groups of 128 in float64."""
    first, second = rotation.signs(128)
    if inverse:
        first, second = second, first
    turned = ((x.astype(np.float64) * first) @ hadamard(128) / np.sqrt(128)) * second
    return turned.astype(np.float32)


def _weights(scores, hidden):
    scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def test_offset_in_k_is_called_collapse(qwen):
    """Cosine says .985 for this layer; perplexity rose 1,877 times. V and late layers are fine."""
    found, last = verdicts(qwen, types("turbo3"))
    assert found[0, "k"] == found["all", "k"] == "collapse"
    assert {level for (_, side), level in found.items() if side == "v"} == {"fine"}
    assert found[14, "k"] == found[27, "k"] == "fine"
    assert last.startswith("verdict: collapse; at fault: K of layers 0-1")
    assert "use this: turbo3+center/turbo3,keep-first=4 (3.36 bits" in last
    assert "-ctk turbo3+center -ctv turbo3 --keep-first 4" in last
    assert "\n" not in last


def test_remedy_of_the_same_dump_is_fine(qwen):
    """q8_0 for K and turbo3 for V cost next to nothing (next-token KL .0014)."""
    found, last = verdicts(qwen, types("q8_0", "turbo3"))
    assert set(found.values()) == {"fine"}
    assert last.startswith("verdict: fine")


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "turbo4", "turbo3"])
def test_smollm_survives(smollm, name):
    """No layer of it loses its attention to these, and four layers make no sum to speak of."""
    found, _ = verdicts(smollm, types(name))
    assert set(found.values()) == {"fine"}


def test_smollm_turbo2_is_degraded(smollm):
    """Two bits cost SmolLM2 .08 nats as a prefix and .9 on the fly: not fine, nor rubble."""
    found, last = verdicts(smollm, types("turbo2"))
    assert found["all", "k"] == "degraded"
    assert "use this: " in last


@pytest.mark.parametrize("side", ["k", "v"])
def test_rotation_left_out_on_one_side(smollm, side):
    """A broken backend is caught, on the side that is broken and on no other."""
    found, _ = verdicts(smollm, lambda _: broken_on(side))
    other = "v" if side == "k" else "k"
    assert found["all", side] == "collapse"
    assert found["all", other] == "fine"
    assert all(level != "fine" for (_, own), level in found.items() if own == side)


@pytest.mark.parametrize("side", ["k", "v"])
def test_rotation_left_out_without_queries(smollm, write_dump, side):
    """The fallback catches it too, and says what it could not judge."""
    with open_dump(smollm) as dump:
        kept = {t.name: t.stored.read() for t in dump.kv()}
    path = write_dump(kept)
    with open_dump(path) as dump:
        judged = evaluate_and_judge(dump, broken_on(side), AttentionOptions())
    rows = {(row["layer"], row["side"]): row for row in judged.rows}
    assert rows["all", side]["verdict"] == "collapse"
    assert rows["all", "k"]["output_error"] is None
    assert any("could not be measured (no queries)" in note for note in judged.notes)


def test_offset_without_queries(qwen, write_dump):
    """The centred error alone finds the layer and the remedy."""
    with open_dump(qwen) as dump:
        path = write_dump({t.name: t.stored.read() for t in dump.kv()})
    found, last = verdicts(path, types("turbo3"), AttentionOptions())
    assert found[0, "k"] == "collapse"
    assert found[14, "k"] == found[0, "v"] == "fine"
    assert "use this: turbo3+center/turbo3,keep-first=4" in last


def test_identity_is_exactly_nothing(smollm):
    """float16 tensors through an f16 cache: zero error, not rounding."""
    found = attention(smollm, types("f16"))
    for layer in (*found.layers, None):
        for side in "kv":
            row = found.figures(layer, side)
            errors = [value for name, value in row.items() if name.startswith("output_error")]
            assert {value for value in errors if value is not None} == {0.0}
    assert found.figures(None, "k")["attention_kl_max"] == 0
    assert found.figures(None, "k")["top1"] == 1


def test_packed_and_twin_give_what_types_give(smollm, tmp_path, write_dump):
    """Blocks on disk, decoded floats on disk and types on the fly are one cache."""
    with open_dump(smollm) as dump:
        quantize(dump, tmp_path / "p.safetensors", parse_plan("turbo3"))
        arrays = {t.name: t.stored.read() for t in dump if t.layer == 7}
        direct = evaluate_attention(dump, types("turbo3")(dump), ALL, layers=[7])
        with open_packed(tmp_path / "p.safetensors") as packed:
            stored = evaluate_attention(dump, PackedCandidate(packed), ALL, layers=[7])
        codec = codecs.codec("turbo3")
        for side in "kv":
            name = f"layers.7.{side}"
            arrays[name] = codec.decode(codec.encode(arrays[name]), 64)
        with open_dump(write_dump(arrays)) as twin:
            floats = evaluate_attention(dump, DumpCandidate(twin), ALL, layers=[7])
    assert direct.figures(7, "k") == stored.figures(7, "k") == floats.figures(7, "k")
    assert direct.figures(7, "k")["output_error"] > 0


def test_sample_agrees_with_all(smollm):
    """A sample of the positions lands near the whole, and its interval says how near."""
    whole = attention(smollm, types("turbo3"))
    part = attention(smollm, types("turbo3"), AttentionOptions(100))
    assert [one.measured for one in part.layers.values()] == [100] * 4
    inside = 0
    for layer in whole.layers:
        a, b = whole.figures(layer, "k"), part.figures(layer, "k")
        assert a["output_error_low"] is None
        assert b["output_error"] == pytest.approx(a["output_error"], rel=0.5)
        inside += b["output_error_low"] <= a["output_error"] <= b["output_error_high"]
        inside += b["attention_kl_low"] <= a["attention_kl"] <= b["attention_kl_high"]
    assert inside >= 6
    total = part.figures(None, "k")
    assert total["output_error_low"] < total["output_error"] < total["output_error_high"]


def test_sum_over_layers(smollm):
    """The row of all layers holds the sum of theirs; KL is pooled over queries."""
    found = attention(smollm, types("turbo3"))
    rows = [found.figures(layer, "k") for layer in found.layers]
    total = found.figures(None, "k")
    assert total["output_error"] == pytest.approx(sum(row["output_error"] for row in rows))
    assert total["attention_kl"] == pytest.approx(np.mean([row["attention_kl"] for row in rows]))
    assert total["queries"] == 4 * 9 * 256


def test_threads_change_nothing(smollm):
    """Results are joined in the order of the heads, whoever is done first."""
    many = attention(smollm, types("turbo3"), layers=[7]).figures(7, "k")
    kernels.set_threads(1)
    try:
        assert attention(smollm, types("turbo3"), layers=[7]).figures(7, "k") == many
    finally:
        kernels.set_threads(None)


def test_prompts_in_a_row_or_in_a_batch(layer, write_dump):
    """Two prompts behind each other on the token axis never see each other."""
    arrays = layer(tokens=20, batch=2)
    row = {
        name: np.ascontiguousarray(np.concatenate([a[:1], a[1:]], axis=2))
        for name, a in arrays.items()
    }
    batch = write_dump(arrays, {"sequence_lengths": [20, 20]})
    behind = write_dump(
        {name: a.reshape(1, a.shape[1], 40, 64) for name, a in row.items()},
        {"sequence_lengths": [20, 20]},
    )
    a, b = (attention(path, types("turbo3")).figures(0, "k") for path in (batch, behind))
    for name, value in a.items():
        assert b[name] == (None if value is None else pytest.approx(value, rel=1e-5)), name
    blind = write_dump({name: a.reshape(1, a.shape[1], 40, 64) for name, a in row.items()})
    assert attention(blind, types("turbo3")).figures(0, "k")["score_rmse"] != a["score_rmse"]


def test_window_scale_and_softcap_come_from_the_source(layer, write_dump, plain):
    """What the metadata says of attention is what is computed."""
    arrays = layer(tokens=30)
    source = {
        "windows": {"0": 6},
        "attention": [{"layers": [0], "scale": 0.3, "softcap": 5.0}],
    }
    found = attention(write_dump(arrays, source), types("turbo3")).figures(0, "k")
    codec = codecs.codec("turbo3")
    k, v, q = (arrays[f"layers.0.{side}"][0] for side in "kvq")
    k_new, v_new = (codec.decode(codec.encode(x), 64) for x in (k, v))
    heads = [
        plain(q[2 * h : 2 * h + 2], k[h], k_new[h], v[h], v_new[h], 0.3, 6, 5.0) for h in range(2)
    ]
    assert found["attention_kl"] == pytest.approx(
        np.mean([h["attention_kl"] for h in heads]), rel=1e-4
    )


def test_output_projection_is_applied(layer, write_dump, gaussian):
    """With Gram matrices the energy is that behind W_o; identities change nothing."""
    arrays = layer()
    bare = attention(write_dump(arrays), types("turbo3")).figures(0, "v")["output_error"]
    same = np.tile(np.eye(64, dtype=np.float32), (2, 1, 1))
    equal = attention(write_dump({**arrays, "layers.0.o_gram": same}), types("turbo3"))
    assert equal.layers[0].projected
    assert equal.figures(0, "v")["output_error"] == pytest.approx(bare, rel=1e-5)
    w = gaussian(2, 64, 64, seed=31)
    gram = (w @ w.transpose(0, 2, 1)).astype(np.float32)
    other = attention(write_dump({**arrays, "layers.0.o_gram": gram}), types("turbo3"))
    assert other.figures(0, "v")["output_error"] != pytest.approx(bare, rel=1e-3)


def test_window_that_is_never_full_is_said(layer, write_dump):
    """A window longer than the prompt hides nothing here, and may elsewhere: a note."""
    path = write_dump(layer(tokens=20), {"windows": {"0": 20}})
    found = attention(path, types("turbo3"))
    assert len(found.notes) == 1
    assert "window of 20 tokens" in found.notes[0]
    assert found.figures(0, "k")["queries"] == 80


BAD = {
    "head_dim": ({"q": (1, 4, 40, 32)}, {}, "q has head_dim 32, k 64"),
    "groups": ({"q": (1, 3, 40, 64)}, {}, "3 query heads for 2 KV heads"),
    "tokens": ({"q": (1, 4, 41, 64)}, {}, "differ in batch or seq_len"),
    "batch": ({"q": (2, 4, 40, 64)}, {}, "differ in batch or seq_len"),
    "gram": ({"o_gram": (2, 63, 63)}, {}, "o_gram: float32 (2, 63, 63)"),
    "window 0": ({}, {"windows": {"0": 0}}, "window 0"),
    "window text": ({}, {"windows": {"0": "x"}}, "window 'x'"),
    "lengths": ({}, {"sequence_lengths": [20, 21]}, "do not add up"),
    "lengths text": ({}, {"sequence_lengths": "40"}, "do not add up"),
    "attention": ({}, {"attention": {"scale": 1}}, "no list of objects"),
    "scale": ({}, {"attention": [{"layers": [0], "scale": -1}]}, "scale is -1"),
    "softcap": ({}, {"attention": [{"layers": [0], "softcap": "a"}]}, "softcap is 'a'"),
}


@pytest.mark.parametrize("case", BAD)
def test_parts_that_do_not_fit(layer, write_dump, gaussian, case):
    """Shapes and metadata that contradict each other are one line that names the layer."""
    shapes, source, words = BAD[case]
    arrays = layer()
    for side, shape in shapes.items():
        arrays[f"layers.0.{side}"] = gaussian(*shape)
    with pytest.raises(InputError) as error:
        attention(write_dump(arrays, source), types("turbo3"))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_negative_gram_is_refused(layer, write_dump):
    """A matrix with a negative eigenvalue is no Gram matrix, and would give negative energies."""
    gram = np.tile(-np.eye(64, dtype=np.float32), (2, 1, 1))
    path = write_dump({**layer(), "layers.0.o_gram": gram})
    with pytest.raises(InputError, match="negative eigenvalue"):
        attention(path, types("turbo3"))


@pytest.mark.parametrize("side", ["k", "v", "q"])
def test_nan_is_refused(layer, write_dump, side):
    """One NaN would turn every figure of its layer into NaN."""
    arrays = layer()
    arrays[f"layers.0.{side}"][0, 1, 17, 5] = np.nan
    path = write_dump(arrays)
    with pytest.raises(InputError, match=rf"layers.0.{side}: .*token 17 head 1"):
        attention(path, types("turbo3"))
    row = attention(path, types("turbo3"), nonfinite="zero").figures(0, "k")
    assert np.isfinite(row["output_error"])


def test_layers_that_cannot_be_judged(layer, write_dump):
    """Layers without queries stand beside the others with their reason."""
    arrays = layer() | {k: a for k, a in layer(index=3).items() if not k.endswith("q")}
    found = attention(write_dump(arrays), types("turbo3"))
    assert list(found.layers) == [0]
    assert found.missing == {3: "no queries"}
    before = attention(write_dump(layer(), {"k": "before RoPE"}), types("turbo3"))
    assert before.missing == {0: "K before RoPE"}


def test_no_tokens(layer, write_dump):
    """An empty sequence is nothing to judge, not a crash."""
    arrays = {name: a[:, :, :0] for name, a in layer().items()}
    assert attention(write_dump(arrays), types("turbo3")).missing == {0: "no tokens"}


@pytest.mark.parametrize("text", ["0", "-1", "some", "", "1.5"])
def test_bad_numbers_of_queries(text):
    """A mistyped option is refused before a file is opened."""
    with pytest.raises(UsageError, match="--queries"):
        parse_queries(text)
