"""Shapes that models have and code forgets, through the whole pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqcli.codecs import codec_ids
from tqcli.kv.dump import open_dump

from .conftest import Refused
from .containers import file_of


def random(*shape: int) -> np.ndarray:
    """Standard normal float16 values."""
    return np.random.default_rng(23).standard_normal(shape).astype(np.float16)


def round_trip(tq: Callable[..., Any], arrays: dict[str, np.ndarray], kind: str) -> None:
    """Quantize, inspect, unpack, evaluate and compare; every step must succeed and agree."""
    Path("x.safetensors").write_bytes(file_of(arrays))
    for command in (
        ["quantize", "x.safetensors", "-o", "p.safetensors", "-ctk", kind, "-ctv", kind],
        ["inspect", "p.safetensors", "--verify"],
        ["unpack", "p.safetensors", "-o", "b.safetensors"],
        ["compare", "x.safetensors", "-t", kind],
    ):
        result = tq(*command)
        assert result.code == 0, result
        assert result.err in ("", "wrote b.safetensors\n")
    with open_dump("b.safetensors") as back:
        kept = {name: array.shape for name, array in arrays.items() if name[-1] in "kv"}
        assert {tensor.name: tensor.shape for tensor in back} == kept
    rows = [
        json.loads(tq("evaluate", "x.safetensors", *other, "--json").out)["rows"]
        for other in (["p.safetensors"], ["-ctk", kind, "-ctv", kind])
    ]
    assert rows[0] == rows[1]
    for row in rows[0]:
        assert row["cosine_mean"] is None or row["cosine_mean"] > 0.9


@pytest.mark.parametrize("head_dim", [1, 33, 64, 80, 96, 112, 128, 192, 256, 576])
@pytest.mark.parametrize("kind", ["turbo3", "turbo3-g64"])
def test_head_dims(kind: str, head_dim: int, folder: Path, tq: Callable[..., Any]) -> None:
    """Every head_dim in use, and odd ones, is padded on the way in and cut on the way out."""
    round_trip(tq, {"layers.0.k": random(1, 2, 7, head_dim)}, kind)


@pytest.mark.parametrize("kind", [k for k in codec_ids() if k[0] in "qi"])
def test_head_dim_ggml_refuses(kind: str, folder: Path, refused: Refused) -> None:
    """Where llama.cpp refuses a head, so does tq, and says which types do not."""
    (folder / "x.safetensors").write_bytes(file_of({"layers.0.k": random(1, 2, 3, 80)}))
    refused("quantize", "x.safetensors", "-o", "o.safetensors", "-ctk", kind,
            matching="layers.0.k: .*head_dim 80 is no multiple of 32.*turbo")  # fmt: skip


@pytest.mark.parametrize("seq_len", [0, 1, 3, 33, 257])
@pytest.mark.parametrize("kind", ["turbo3", "q8_0"])
def test_sequence_lengths(kind: str, seq_len: int, folder: Path, tq: Callable[..., Any]) -> None:
    """No length of a sequence is special, none included."""
    arrays = {f"layers.0.{side}": random(1, 2, seq_len, 64) for side in "kv"}
    round_trip(tq, arrays, kind)


def test_no_tokens_to_fit(folder: Path, refused: Refused) -> None:
    """A codebook cannot be fitted to an empty dump."""
    (folder / "x.safetensors").write_bytes(file_of({"layers.0.k": random(1, 2, 0, 64)}))
    refused("fit-codebook", "x.safetensors", "-o", "o.json", matching="nothing to fit")


def test_too_few_values_to_fit(folder: Path, refused: Refused) -> None:
    """Equal vectors have too few distinct values for eight levels."""
    zeros = np.zeros((1, 1, 9, 128), np.float16)
    (folder / "x.safetensors").write_bytes(file_of({"layers.0.k": zeros}))
    refused("fit-codebook", "x.safetensors", "-o", "o.json", matching="at least 8",
            constant=16 << 20)  # fmt: skip


def test_layers_of_every_kind(folder: Path, tq: Callable[..., Any]) -> None:
    """Missing and unordered layers, sliding windows, MLA, MQA, GQA and layers with one side."""
    round_trip(
        tq,
        {
            "layers.12.v": random(2, 1, 9, 64),  # K and V of different head_dim, MQA
            "layers.12.k": random(2, 1, 9, 192),
            "layers.2.q": random(1, 8, 40, 128),  # GQA
            "layers.2.k": random(1, 2, 40, 128),
            "layers.2.v": random(1, 2, 40, 128),
            "layers.0.k": random(1, 4, 16, 128),  # a window
            "layers.0.v": random(1, 4, 16, 128),
            "layers.7.k": random(1, 1, 5, 576),  # MLA keeps one latent
            "layers.999.v": random(3, 1, 1, 128),
        },
        "turbo3",
    )


def test_order_in_the_file_does_not_matter(folder: Path, tq: Callable[..., Any]) -> None:
    """Two files with the same tensors in another order give the same bytes."""
    arrays = {f"layers.{i}.{s}": random(1, 1, 4, 64) * (i + 2) for i in (10, 2) for s in "vk"}
    out = []
    for order in (list(arrays), sorted(arrays)):
        (folder / "x.safetensors").write_bytes(file_of({n: arrays[n] for n in order}))
        assert tq("quantize", "x.safetensors", "-o", "o.safetensors", "--force").code == 0
        out.append((folder / "o.safetensors").read_bytes())
    assert out[0] == out[1]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_k_and_v_must_pair(axis: int, folder: Path, refused: Refused) -> None:
    """K and V of a layer agree in all but head_dim."""
    shape = [2, 2, 4, 64]
    arrays = {"layers.1.k": random(*shape)}
    shape[axis] += 1
    arrays["layers.1.v"] = random(*shape)
    (folder / "x.safetensors").write_bytes(file_of(arrays))
    refused("evaluate", "x.safetensors", matching="layers.1: k .* and v .* differ")


def test_only_queries(folder: Path, tq: Callable[..., Any], refused: Refused) -> None:
    """A dump of Q alone has nothing that a cache stores."""
    (folder / "x.safetensors").write_bytes(file_of({"layers.0.q": random(1, 2, 4, 64)}))
    for command in (["quantize", "-o", "o.safetensors"], ["evaluate"], ["compare"]):
        refused(command[0], "x.safetensors", *command[1:], matching="no layers.N.k or layers.N.v")


def test_second_dump_must_match(folder: Path, values: np.ndarray, refused: Refused) -> None:
    """What is compared has the same tensors and shapes."""
    (folder / "a.safetensors").write_bytes(file_of({"layers.0.k": values}))
    (folder / "b.safetensors").write_bytes(file_of({"layers.0.k": values[:, :, :3]}))
    (folder / "c.safetensors").write_bytes(file_of({"layers.1.k": values}))
    refused("evaluate", "a.safetensors", "b.safetensors", matching="layers.0.k has shape")
    refused("evaluate", "a.safetensors", "c.safetensors", matching="has no layers.0.k")


def test_absurd_axes(folder: Path, refused: Refused) -> None:
    """Accumulators grow with heads, not with bytes: their number is bounded."""
    (folder / "x.safetensors").write_bytes(
        file_of({"layers.0.k": np.zeros((1, 100_000, 1, 1), np.float16)})
    )
    refused("evaluate", "x.safetensors", matching="at most 8192 heads")
    (folder / "x.safetensors").write_bytes(
        file_of({"layers.0.k": np.zeros((1, 1, 1, 100_000), np.float16)})
    )
    refused("evaluate", "x.safetensors", matching="head_dim 16384")


def test_wide_heads_have_no_null_model(folder: Path, tq: Callable[..., Any]) -> None:
    """Thousands of Gaussian vectors of a huge head_dim are not drawn for a tiny file."""
    (folder / "x.safetensors").write_bytes(file_of({"layers.0.k": random(1, 1, 2, 16_384)}))
    row = json.loads(tq("evaluate", "x.safetensors", "--json").out)["rows"][0]
    assert row["null_nmse"] is None
    assert row["nmse"] < 0.05
