"""``tq restore``, ``tq convert`` and ``tq inspect --for`` as people type them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

Run = Callable[..., Any]
HEADS = ("--heads", "3", "--head-dim", "64", "--arch", "llama")


@pytest.fixture
def slots(fixtures: Path) -> Path:
    """Real save files of SmolLM2."""
    return fixtures / "llamacpp"


@pytest.fixture
def dumped(slots: Path, tmp_path: Path, tq: Run) -> Path:
    """The dump of an f16 slot."""
    path = tmp_path / "kv.safetensors"
    assert tq("dump", slots / "f16-flash-slot.bin", *HEADS, "-o", path).code == 0
    return path


def model(path: Path, *, layers: int = 30, arch: str = "llama", tokens: int = 49152) -> Path:
    """A GGUF of metadata alone."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(layers)
    writer.add_embedding_length(576)
    writer.add_head_count(9)
    writer.add_head_count_kv(3)
    writer.add_token_list([str(i) for i in range(tokens)])
    writer.add_tensor("t", np.zeros(2, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_there_and_back(slots: Path, dumped: Path, tmp_path: Path, tq: Run) -> None:
    """Two commands, the same file, and a report that says what it is."""
    back = tmp_path / "back.bin"
    result = tq("restore", dumped, "-o", back, "--json")
    assert (result.code, result.err) == (0, "")
    assert back.read_bytes() == (slots / "f16-flash-slot.bin").read_bytes()
    report = json.loads(result.out)
    assert report["file"] == {
        "kind": "sequence", "version": 3, "type_k": "f16", "type_v": "f16", "rotation": [0, 0],
        "v_transposed": False, "k_interleaved": True, "cells": 5, "tokens": 5,
    }  # fmt: skip
    assert len(report["rows"]) == 60
    assert sum(row["bytes"] for row in report["rows"]) == 60 * 5 * 3 * 64 * 2


def test_a_report_says_how_the_file_is(dumped: Path, tmp_path: Path, tq: Run) -> None:
    """One sentence below the table."""
    options = ("--engine-version", "0.7.0", "-ctk", "q8_0", "-fa", "off")
    result = tq("restore", dumped, "-o", tmp_path / "o.bin", *options)
    assert result.out.rstrip().endswith(
        "sequence file of version 4, 5 cells, 5 tokens, V transposed, Hadamard of K 64, of V none"
    )


def test_convert(slots: Path, dumped: Path, tmp_path: Path, tq: Run) -> None:
    """From the slot or from its dump, the same file; without heads nothing is guessed."""
    a, b = tmp_path / "a.bin", tmp_path / "b.bin"
    slot = slots / "f16-flash-slot.bin"
    types = ("-ctk", "q8_0", "-ctv", "q4_0")
    assert tq("convert", slot, "-o", a, *types, *HEADS, "--to-rotation", "default").code == 0
    assert tq("restore", dumped, "-o", b, *types, "--rotation", "default").code == 0
    assert a.read_bytes() == b.read_bytes()
    result = tq("convert", slot, "-o", tmp_path / "c.bin", *types)
    assert result.code == 2
    assert "give --model FILE.gguf, or --heads and --head-dim" in result.err
    assert not (tmp_path / "c.bin").exists()


def test_for_a_probe(slots: Path, tmp_path: Path, tq: Run) -> None:
    """0 and 1, the checks on stdout, the loader's words in the reason."""
    probe, slot = slots / "q8_0-flash-seq.bin", slots / "f16-flash-slot.bin"
    good = tmp_path / "good.bin"
    like = ("--like", probe, "--to-rotation", "default")
    assert tq("convert", slot, "-o", good, *HEADS, *like).code == 0
    result = tq("inspect", good, "--for", probe)
    assert (result.code, result.err) == (0, "")
    assert "accepted" in result.out
    assert "weights, tokenizer, RoPE base and scaling, LoRA adapters" in result.out
    assert "version 3 does not record the Hadamard" in result.out
    result = tq("inspect", slot, "--for", probe, "--json")
    assert result.code == 1
    assert result.err.endswith("refuses it: mismatched key type (8 != 1, layer 0)\n")
    report = json.loads(result.out)
    assert report["accepted"] is False
    refused = {row["check"]: row["refusal"] for row in report["rows"] if row["refusal"]}
    assert refused["value type of layer 0"] == "mismatched value type (8 != 1, layer 0)"


def test_what_only_options_tell(slots: Path, tmp_path: Path, tq: Run) -> None:
    """The context by -c, the vocabulary by --model."""
    slot = slots / "f16-flash-slot.bin"
    few = model(tmp_path / "few.gguf", tokens=300)
    assert tq("inspect", slot, "--for", slot, "-c", "5").code == 0
    for options, reason in (
        (("-c", "4"), "not enough cells in kv cache to restore state (5 > 4)"),
        (("--model", few), "Invalid tokens in slot save file"),
    ):
        result = tq("inspect", slot, "--for", slot, *options)
        assert result.code == 1
        assert reason in result.err
    assert tq("inspect", slot, "-c", "5").code == 2
    assert tq("inspect", slot, "--for", slot, "--verify").code == 2


def test_the_model_must_be_the_one(dumped: Path, tmp_path: Path, tq: Run) -> None:
    """A GGUF with other layers, or another architecture than was said."""
    out = tmp_path / "o.bin"
    few = model(tmp_path / "few.gguf", layers=12)
    result = tq("restore", dumped, "-o", out, "--model", few)
    assert (result.code, result.out) == (3, "")
    assert "30 layers; " in result.err
    other = model(tmp_path / "other.gguf", arch="qwen2")
    result = tq("restore", dumped, "-o", out, "--model", other)
    assert result.code == 2
    assert "was read as llama" in result.err
    assert not out.exists()


def test_bad_probes(slots: Path, dumped: Path, tmp_path: Path, tq: Run) -> None:
    """Cut short at every length, or no save file at all: one line, nothing written."""
    data = (slots / "q8_0-flash-seq.bin").read_bytes()
    bad, out = tmp_path / "bad.bin", tmp_path / "o.bin"
    for length in (0, 3, 11, 40, 90, 120, 300, len(data) // 2, len(data) - 1):
        bad.write_bytes(data[:length])
        for command in (("restore", dumped, "-o", out, "--like", bad), ("inspect", bad, "--for")):
            more = (slots / "q8_0-flash-seq.bin",) if command[0] == "inspect" else ()
            result = tq(*command, *more)
            assert (result.code, result.out) == (3, "") or length < 4
            assert result.err.count("\n") == 1
    result = tq("restore", dumped, "-o", out, "--like", slots / "expected.npz")
    assert result.code == 3
    assert "llama.cpp save files start with" in result.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.bin", "kv.safetensors"]


def test_nothing_is_written_over_its_input(
    slots: Path, dumped: Path, tmp_path: Path, tq: Run
) -> None:
    """Neither the source nor the probe, not even with --force."""
    slot = tmp_path / "slot.bin"
    slot.write_bytes((slots / "f16-flash-slot.bin").read_bytes())
    for command in (
        ("convert", slot, "-o", slot, *HEADS),
        ("restore", dumped, "-o", dumped),
        ("restore", dumped, "-o", slot, "--like", slot),
    ):
        result = tq(*command, "--force")
        assert result.code == 2
        assert "is the input itself" in result.err
    assert slot.read_bytes() == (slots / "f16-flash-slot.bin").read_bytes()
    result = tq("convert", slots / "f16-flash-slot.bin", "-o", slot, *HEADS)
    assert result.code == 2
    assert "exists" in result.err


def test_what_is_no_cache(dumped: Path, smollm: Path, tmp_path: Path, tq: Run) -> None:
    """Packed caches and excerpts are told what is missing."""
    packed = tmp_path / "packed.safetensors"
    assert tq("quantize", dumped, "-o", packed, "-ctk", "q8_0", "-ctv", "q8_0").code == 0
    result = tq("restore", packed, "-o", tmp_path / "o.bin")
    assert result.code == 3
    assert "unpack it first" in result.err
    result = tq("restore", smollm, "-o", tmp_path / "o.bin", "--engine-version", "4")
    assert result.code == 3
    assert "no layers.1; a cache has all layers" in result.err
    assert not (tmp_path / "o.bin").exists()
    assert tq("restore", dumped, "-o", tmp_path / "o.bin", "-fa", "maybe").code == 2
    assert tq("restore", dumped, "-o", tmp_path / "o.bin", "--rotation", "1e3").code == 2
