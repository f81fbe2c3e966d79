"""SmolLM2, real weights: ``tq dump`` whole, in shards and resumed; attention from the dump."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqcli.kv.dump import Dump, open_dump
from tqcli.rope import apply_rope, remove_rope, rope_of
from tqcli.sources.base import tokens_sha256
from tqcli.sources.hf.prompts import Prompts
from tqcli.sources.hf.source import Options, TransformersSource

pytestmark = pytest.mark.model
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS, LAYERS, HEADS, KV_HEADS, DIM = 1100, 30, 9, 3, 64
LONG = int(os.environ.get("TQ_TEST_TOKENS", "4096"))  # 8,192 take some minutes on two cores
SHARD = "4MiB"  # five layers of K, V and Q in float16


def command(text_file: Path, out: Path, *more: str) -> list[str]:
    """The command line of a dump of 1,100 tokens."""
    return [
        sys.executable, "-P", "-m", "tqcli", "dump", "smollm2", "-f", str(text_file),
        "-c", str(TOKENS), "--queries", "-o", str(out), "--json", *more,
    ]  # fmt: skip


def dump(text_file: Path, out: Path, *more: str) -> dict[str, Any]:
    """Run it; its report."""
    done = subprocess.run(command(text_file, out, *more), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def whole(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dump in one file by one call."""
    path = tmp_path_factory.mktemp("whole") / "kv.safetensors"
    dump(text_file, path)
    return path


def same_tensors(a: Dump, b: Dump) -> None:
    """Every tensor of two dumps is equal, token ids and Gram matrices too."""
    assert list(a.stored) == list(b.stored)
    for name, stored in a.stored.items():
        assert stored.read().tobytes() == b.stored[name].read().tobytes(), name
    assert a.fingerprint() == b.fingerprint()


def test_whole_shards_and_resumed_are_the_same(
    whole: Path, text_file: Path, tmp_path: Path
) -> None:
    """In one file, in shards, and killed half-way and resumed: bit for bit the same tensors."""
    chunked = dump(text_file, tmp_path / "chunked.safetensors", "--max-shard-size", SHARD)
    out = tmp_path / "resumed.safetensors"
    arguments = command(text_file, out, "--max-shard-size", SHARD, "--resume")
    broken = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    work = tmp_path / "resumed.safetensors.work" / "journal.json"
    until = time.monotonic() + 120
    while broken.poll() is None and time.monotonic() < until:
        if work.is_file() and json.loads(work.read_text())["tokens"] > 0:
            broken.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    assert broken.wait() == -signal.SIGKILL
    assert json.loads(work.read_text())["tokens"] in (512, 1024)
    assert not out.with_name(out.name + ".index.json").exists()
    resumed = dump(text_file, out, "--max-shard-size", SHARD, "--resume")
    assert not work.parent.exists()
    with (
        open_dump(whole) as first,
        open_dump(chunked["output"]) as second,
        open_dump(resumed["output"]) as third,
    ):
        assert len(second.files) == len(third.files) > 5
        same_tensors(first, second)
        same_tensors(first, third)


def test_other_chunk_size_agrees_to_rounding(whole: Path, text: str, tmp_path: Path) -> None:
    """One pass over all tokens differs from passes of 512 by float32 rounding only."""
    options = Options(dtype="float32", chunk_size=TOKENS)
    prompts = Prompts((text,), context=TOKENS)
    worst = 0.0
    with (
        TransformersSource("smollm2", prompts, options, work_dir=tmp_path / "a") as one,
        TransformersSource(
            "smollm2", prompts, Options(dtype="float32"), work_dir=tmp_path / "b"
        ) as many,
    ):
        for (name, a), (_, b) in zip(one.tensors(), many.tensors(), strict=True):
            if name.startswith("layers."):
                worst = max(worst, float(np.linalg.norm(a - b) / np.linalg.norm(b)))
    print(f"largest relative difference of a tensor: {worst:.2e}")
    assert worst < 2e-5


def test_metadata(whole: Path, text: str) -> None:
    """Tokens, hashes and shapes are those of the model and its tokenizer."""
    with open_dump(whole) as dump:
        source = dump.source
        ids = dump.token_ids()
        assert ids is not None
        assert ids.shape == (1, TOKENS)
        assert source["num_tokens"] == TOKENS
        assert source["tokens_sha256"] == tokens_sha256(ids[0])
        np.testing.assert_array_equal(dump.stored["positions"].read(), np.arange(TOKENS)[None])
        assert source["gqa_ratio"] == HEADS // KV_HEADS
        assert source["layer_kinds"] == {str(i): "full_attention" for i in range(LAYERS)}
        assert source["skipped_layers"] == {}
        assert source["k"] == "after RoPE"
        assert source["revision"].startswith("sha256:")
        (rope,) = source["rope"]
        assert rope["layers"] == list(range(LAYERS))
        assert (rope["kind"], rope["theta"], rope["pairs"]) == ("default", 1e5, "half")
        assert rope["error"] < 1e-6
        for tensor in dump.tensors:
            heads = HEADS if tensor.side == "q" else KV_HEADS
            assert tensor.shape == (1, heads, TOKENS, DIM)
            assert tensor.stored.digest is not None
        for layer in range(LAYERS):
            gram = dump.stored[f"layers.{layer}.o_gram"].read()
            assert gram.shape == (KV_HEADS, DIM, DIM)
            np.testing.assert_array_equal(gram, gram.transpose(0, 2, 1))
    with TransformersSource("smollm2", Prompts((text,), context=TOKENS)) as again:
        assert [int(i) for i in ids[0]] == again.sequences[0]
        assert again.describe().provenance["tokens_sha256"] == source["tokens_sha256"]


def test_queries_and_keys_reproduce_attention(text: str, tmp_path: Path) -> None:
    """softmax(Q.K / 8) of the dump is the model's own attention, layer by layer."""
    prompts = Prompts((text,), context=TOKENS)
    errors = {}
    for dtype in ("float32", "float16"):
        options = Options(queries=True, dtype=dtype)
        with TransformersSource("smollm2", prompts, options, work_dir=tmp_path / dtype) as source:
            tensors = {n: t.astype(np.float32) for n, t in source.tensors() if n[-1] in "kq"}
            model_dir, tokens = source.ref.location, source.sequences[0]
            (rule,) = source.describe().provenance["attention"]
        errors[dtype] = attention_error(model_dir, tokens, tensors, rule["scale"])
    print(f"largest attention error: {errors}")
    assert errors["float32"] < 2e-4
    assert errors["float16"] < 2e-2


def attention_error(
    model_dir: str, tokens: list[int], tensors: dict[str, np.ndarray], scale: float
) -> float:
    """Largest difference of an attention weight, over all layers, heads and queries."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    seen = np.tri(len(tokens), dtype=bool)
    worst: list[float] = []

    def compare(module: Any, _inputs: Any, output: Any) -> None:
        q, k = (tensors[f"layers.{module.layer_idx}.{side}"][0] for side in "qk")
        for head, theirs in enumerate(output[1][0].numpy()):
            scores = scale * q[head] @ k[head // (HEADS // KV_HEADS)].T
            scores = np.where(seen, scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            worst.append(float(np.abs(weights - theirs).max()))

    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(compare)
    with torch.inference_mode():
        model.model(torch.tensor([tokens]))
    assert len(worst) == LAYERS * HEADS
    return max(worst)


def test_rope_taken_off_and_put_back(whole: Path) -> None:
    """K of every layer goes back before RoPE and forth again within 1e-6."""
    with open_dump(whole) as dump:
        positions = dump.stored["positions"].read()[0]
        for layer in range(LAYERS):
            k = dump.get(layer, "k")
            assert k is not None
            values = k.stored.read().astype(np.float32)
            rope = rope_of(dump.source["rope"], layer)
            back = apply_rope(remove_rope(values, positions, rope), positions, rope)
            gap = np.linalg.norm(back - values, axis=-1) / np.linalg.norm(values, axis=-1)
            assert gap.max() < 1e-6


def test_windows_of_a_corpus_become_a_batch(text_file: Path, tmp_path: Path) -> None:
    """--chunks stacks windows of equal length; each is run by itself."""
    out = tmp_path / "kv.safetensors"
    arguments = command(text_file, out, "--chunks", "3")
    arguments[arguments.index("-c") + 1] = "128"
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == 0
    with open_dump(out) as dump:
        k = dump.get(0, "k")
        assert k is not None
        assert k.shape == (3, KV_HEADS, 128, DIM)
        assert dump.source["sequence_lengths"] == [128] * 3


_GROWTH = """
import sys
from pathlib import Path
from tqcli.sources.hf.source import Options, TransformersSource
from tqcli.sources.hf.prompts import Prompts

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

resident = []
def first_pass_is_over(_):
    if not resident:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        resident.append(status("VmRSS"))

text = Path(sys.argv[1]).read_text() * 8
prompts = Prompts((text,), context=int(sys.argv[2]))
with TransformersSource(
    "smollm2", prompts, Options(queries=True), progress=first_pass_is_over
) as source:
    for name, tensor in source.tensors():
        assert tensor.size
print(resident[0], status("VmHWM"), source.num_tokens)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_cache(text_file: Path) -> None:
    """A long prompt takes the model and little more than one layer and one pass."""
    arguments = [sys.executable, "-P", "-c", _GROWTH, str(text_file), str(LONG)]
    done = subprocess.run(arguments, capture_output=True, check=True)
    resident, peak, tokens = map(int, done.stdout.split())
    assert tokens == LONG
    cache = tokens * LAYERS * (2 * KV_HEADS + HEADS) * DIM * 4  # K, V and Q as computed
    layer = tokens * 2 * HEADS * DIM * 4  # K and V of one layer, repeated for each query head
    mask = 512 * tokens * 4
    print(
        f"model and one pass {resident / 2**20:.0f} MiB, peak {peak / 2**20:.0f} MiB;"
        f" K, V and Q as computed: {cache / 2**20:.0f} MiB"
    )
    assert peak - resident < 3 * (layer + mask)
