"""``tq inspect`` on what is not tq's own: save files, arrays, model folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

SAVE = "llamacpp/q8_0-flash-seq.bin"


def test_save_file(tq: Callable, fixtures: Path) -> None:
    """Types as stored, shapes once the heads are known, tokens, and nothing decoded."""
    result = tq("inspect", fixtures / SAVE, "--heads", 3, "--head-dim", 64, "--json")
    rows = {row["tensor"]: row for row in json.loads(result.out)["rows"]}
    assert rows["layers.29.v"]["type"] == "q8_0"
    assert [rows["layers.0.k"][key] for key in ("batch", "heads", "seq_len", "head_dim")] == [
        1, 3, 5, 64,
    ]  # fmt: skip
    assert rows["layers.0.k"]["bytes"] == 5 * 3 * 64 // 32 * 34


def test_save_file_without_heads_says_so(tq: Callable, fixtures: Path) -> None:
    """What is missing is named, with the option that gives it."""
    result = tq("inspect", fixtures / SAVE)
    assert result.code == 0
    assert "--model" in result.out


def test_arrays(tq: Callable, tmp_path: Path) -> None:
    """An array file shows the tensors it would give."""
    path = tmp_path / "cache.npz"
    shape = (1, 2, 7, 64)
    np.savez(path, **{f"layers.3.{side}": np.zeros(shape, np.float16) for side in "kv"})
    result = tq("inspect", path, "--json", "--axes", "batch,head,seq,dim")
    assert result.code == 0, result.err
    rows = json.loads(result.out)["rows"]
    assert [(row["tensor"], row["seq_len"]) for row in rows] == [
        ("layers.3.k", 7),
        ("layers.3.v", 7),
    ]


def test_model_folder(tq: Callable, tmp_path: Path) -> None:
    """Layers, heads and their kinds from config.json, without a framework."""
    config = {
        "model_type": "toy", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64,
        "num_key_value_heads": 2, "layer_types": ["sliding_attention", "full_attention"],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    rows = json.loads(tq("inspect", tmp_path, "--json").out)["rows"]
    assert [(r["type"], r["heads"], r["query_heads"], r["head_dim"]) for r in rows] == [
        ("sliding_attention", 2, 4, 16),
        ("full_attention", 2, 4, 16),
    ]


@pytest.mark.parametrize("option", [("--preset", "mlx"), ("--heads", 3)])
def test_options_that_mean_nothing(tq: Callable, fixtures: Path, option: tuple) -> None:
    """An option for arrays is refused on a save file rather than ignored, and the reverse."""
    path = fixtures / SAVE if option[0] == "--preset" else fixtures / "kv/smollm2-135m.safetensors"
    result = tq("inspect", path, *option)
    assert result.code == 2
    assert option[0] in result.err


def test_verify_needs_hashes(tq: Callable, fixtures: Path) -> None:
    """A save file holds no hashes; --verify says so and does not pretend."""
    result = tq("inspect", fixtures / SAVE, "--verify")
    assert result.code == 2
    assert result.err.count("\n") == 1
