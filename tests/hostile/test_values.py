"""Values that quantization cannot hold, and values that look hostile and are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqcli.codecs import codec_ids
from tqcli.codecs.tcq import SPECS as TABLED
from tqcli.kv.packed import open_packed
from tqcli.pipeline.unpack import decoded

from .conftest import Refused
from .containers import file_of, record_of, sha256, split, with_record

K = "layers.3.k"
SHAPE = (2, 2, 6, 128)
ALL = [*(name for name in codec_ids() if name not in TABLED), "q8_0+rot", "q4_0+rot64"]


def gaussian(dtype: type = np.float32, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Standard normal values."""
    return np.random.default_rng(19).standard_normal(shape).astype(dtype)


def write(folder: Path, array: np.ndarray, name: str = K) -> str:
    """A dump of one tensor."""
    (folder / "x.safetensors").write_bytes(file_of({name: array}))
    return "x.safetensors"


def quantized(tq: Callable[..., Any], array: np.ndarray, kind: str, *extra: str) -> Any:
    """Quantize a dump of one tensor; the report and what decodes from the result."""
    path = write(Path(), array)
    result = tq("quantize", path, "-o", "p.safetensors", "-ctk", kind, "-ctv", kind,
                "--json", "--force", *extra)  # fmt: skip
    assert (result.code, result.err) == (0, "")
    with open_packed("p.safetensors") as packed:
        back = np.concatenate(list(decoded(packed, packed.tensors[0], dtype=np.float32)))
    return json.loads(result.out), back.reshape(array.shape)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("extent", ["element", "row", "block"])
def test_nonfinite_is_an_error(extent: str, value: float, folder: Path, refused: Refused) -> None:
    """NaN and Inf are refused by place and number, by every command and kind of codec."""
    x = gaussian()
    where = {"element": (5,), "row": (slice(None),), "block": (slice(32, 64),)}[extent]
    x[1, 0, 4, *where] = value
    dim = {"element": 5, "row": 0, "block": 32}[extent]
    path = write(folder, x)
    place = rf"x.safetensors: {K}: .*batch 1 token 4 head 0 dim {dim}\b.*--nonfinite zero"
    refused("quantize", path, "-o", "o.safetensors", matching=place)
    if extent == "element":
        for kind in ("turbo3-qjl", "q8_0", "q4_0+rot", "f16", "iq4_nl"):
            refused("quantize", path, "-o", "o.safetensors", "-ctk", kind, matching=place)
    else:
        refused("evaluate", path, matching=place)
        refused("compare", path, "-t", "turbo2", matching=place)
        refused("fit-codebook", path, "-o", "o.json", matching=place, constant=16 << 20)


@pytest.mark.parametrize("kind", ["turbo3", "q8_0", "f16"])
def test_nonfinite_zero_and_skip_are_counted(
    kind: str, folder: Path, tq: Callable[..., Any]
) -> None:
    """What was replaced is counted exactly, and nothing else changes."""
    x = gaussian()
    x[0, 1, 2, :7] = np.nan
    x[1, 0, 5, 99] = -np.inf
    row = x.copy()
    row[0, 1, 2] = row[1, 0, 5] = 0
    zeroed = np.nan_to_num(x, nan=0, neginf=0)
    report, back = quantized(tq, x, kind, "--nonfinite", "zero")
    assert report["rows"][0]["zeroed_values"] == 8
    assert report["rows"][0]["skipped_vectors"] == 0
    np.testing.assert_array_equal(back, quantized(tq, zeroed, kind)[1])
    report, back = quantized(tq, x, kind, "--nonfinite", "skip")
    assert report["rows"][0]["zeroed_values"] == 0
    assert report["rows"][0]["skipped_vectors"] == 2
    np.testing.assert_array_equal(back, quantized(tq, row, kind)[1])


@pytest.mark.parametrize("rule", ["zero", "skip"])
def test_evaluate_counts_too(rule: str, folder: Path, tq: Callable[..., Any]) -> None:
    """The rule holds for types, a packed cache and a second dump alike, and is counted."""
    x = gaussian()
    x[0, 0, 0, :3] = np.inf
    path = write(folder, x)
    clean = file_of({K: np.nan_to_num(x, posinf=0)})
    (folder / "clean.safetensors").write_bytes(clean)
    assert tq("quantize", path, "-o", "p.safetensors", "--nonfinite", rule).code == 0
    counts = {"zero": (3, 0), "skip": (0, 1)}[rule]
    vectors = x.size // 128 - counts[1]
    for candidate in ([], ["p.safetensors"], ["clean.safetensors"]):
        result = tq("evaluate", path, *candidate, "--nonfinite", rule, "--json")
        assert (result.code, result.err) == (0, "")
        report = json.loads(result.out)
        assert (report["zeroed_values"], report["skipped_vectors"]) == counts
        assert report["rows"][-1]["vectors"] == vectors


def test_unknown_rule(dump: Path, refused: Refused) -> None:
    """A misspelt rule is a usage error, whether or not it would have been needed."""
    refused("quantize", dump, "-o", "o.safetensors", "--nonfinite", "keep",
            code=2, matching="error, zero and skip")  # fmt: skip
    refused("evaluate", dump, "--nonfinite", "keep", code=2, matching="error, zero and skip")


@pytest.mark.parametrize("kind", ALL)
def test_harmless_rows(kind: str, folder: Path, tq: Callable[..., Any]) -> None:
    """Zero rows and signed zeros come back as zeros; nothing else makes a value non-finite."""
    x = gaussian()
    x[0, 0, 0] = 0
    x[0, 0, 1] = -0.0
    x[0, 0, 2] = 1.5  # constant
    x[0, 0, 3] = 0
    x[0, 0, 3, 77] = -3.0  # one-hot
    x[0, 0, 4] = 1e-42  # float32 denormals
    x[0, 0, 5] = 3e-7  # fp16 denormals
    _, back = quantized(tq, x, kind)
    assert np.isfinite(back).all()
    assert not back[0, 0, :2].any()
    assert np.abs(back[0, 0, 4]).max() < 1e-30
    rest = back[0, 0, 2:4].reshape(2, -1)
    lengths = np.linalg.norm(rest, axis=1) / np.linalg.norm(x[0, 0, 2:4], axis=1)
    assert np.all((lengths > 0.5) & (lengths < 1.5))


def test_vanished_vectors_are_counted(folder: Path, tq: Callable[..., Any]) -> None:
    """A vector too short for an fp16 norm decodes to zero and is counted; a zero one is not."""
    x = gaussian()
    x[0, 0, 0] = 0
    x[0, 0, 1] *= 1e-9
    x[0, 1, 3] *= 1e-9
    report, back = quantized(tq, x, "turbo3")
    assert report["rows"][0]["vanished_vectors"] == 2
    assert not back[0, 0, 1].any()


@pytest.mark.parametrize("scale", [1e5, 1e18, 1e30])
@pytest.mark.parametrize("kind", [k for k in ALL if k not in ("f32", "bf16")])
def test_beyond_fp16(kind: str, scale: float, folder: Path, refused: Refused) -> None:
    """A norm or scale that fp16 cannot hold is an error that names the vector.

    The square of 1e30 is beyond float32: it must not pass as a norm of infinity or zero.
    """
    x = gaussian()
    x[1, 1, 2] = scale * (1 + np.arange(128) % 3) * 300
    x[1, 1, 2, ::2] *= -1
    refused("quantize", write(folder, x), "-o", "o.safetensors", "-ctk", kind,
            matching=f"{K}: batch 1 token 2 head 1")  # fmt: skip


@pytest.mark.parametrize("kind", ["q4_1", "q5_1"])
def test_minimum_beyond_fp16(kind: str, folder: Path, refused: Refused) -> None:
    """Types with a minimum overflow in it while their scale is small."""
    x = gaussian()
    x[0, 1, 5, 32:64] = np.linspace(-1e5, -1.00001e5, 32)
    refused("quantize", write(folder, x), "-o", "o.safetensors", "-ctk", kind,
            matching=f"{K}: token 5 head 1")  # fmt: skip


def test_large_and_legal(folder: Path, tq: Callable[..., Any]) -> None:
    """1e30 fits bf16 and float32: no intermediate square may spoil it."""
    x = gaussian() * np.float32(1e30)
    assert np.array_equal(quantized(tq, x, "f32")[1], x)
    _, back = quantized(tq, x, "bf16")
    assert np.allclose(back, x, rtol=2**-8)
    result = tq("evaluate", write(folder, x), "-ctk", "bf16", "-ctv", "bf16", "--json")
    assert result.err == ""
    assert 0 < json.loads(result.out)["rows"][-1]["nmse"] < 1e-4


def spoiled(kind: str, norm: float, tq: Callable[..., Any], at: int = 0) -> bytes:
    """A packed cache in which one fp16 of one block is `norm`, with a hash that fits."""
    quantized(tq, gaussian(), kind)
    file = Path("p.safetensors").read_bytes()
    header, data = split(file)
    record = record_of(file)
    name = f"{K}.blocks"
    _, heads, seq_len, blocks, size = header[name]["shape"]
    body = bytearray(data)
    place = ((1 * heads + 1) * seq_len + 4) * blocks * size + at
    body[place : place + 2] = np.float16(norm).tobytes()
    record["tensors"][name]["sha256"] = sha256(np.frombuffer(bytes(body), np.uint8))
    whole = with_record(file, record)
    return whole[: len(whole) - len(body)] + bytes(body)


BLOCKS = [
    ("turbo3", np.nan, 0), ("turbo3", np.inf, 0), ("turbo3", -1.0, 0), ("turbo3-b32", np.nan, 14),
    ("turbo4", -np.inf, 0), ("turbo3-qjl", np.nan, 2), ("turbo3-qjl", -1.0, 0), ("q8_0", np.nan, 0),
    ("q4_1", np.inf, 2), ("q5_1", np.nan, 2), ("iq4_nl", np.inf, 0), ("q4_0+rot", np.nan, 0),
    ("f16", np.nan, 8), ("f16", np.inf, 8),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "norm", "at"), BLOCKS)
def test_damaged_norms(
    kind: str, norm: float, at: int, folder: Path, tq: Callable[..., Any], refused: Refused
) -> None:
    """Blocks whose norm is NaN, Inf or negative are no blocks, hash or not: the place is told."""
    (folder / "p.safetensors").write_bytes(spoiled(kind, norm, tq, at))
    place = rf"p.safetensors: {K}: batch 1 token 4 head 1: "
    refused("unpack", "p.safetensors", "-o", "o.safetensors", matching=place)
    refused("evaluate", "x.safetensors", "p.safetensors", "--force", matching=place)


def test_decoded_beyond_the_dtype(folder: Path, tq: Callable[..., Any], refused: Refused) -> None:
    """Values that the wanted dtype cannot hold are an error, not infinities."""
    quantized(tq, gaussian() * np.float32(1e30), "f32")
    refused("unpack", "p.safetensors", "-o", "o.safetensors", "--dtype", "float16",
            matching="token 0 head 0: decodes to -?inf in float16")  # fmt: skip
    assert tq("unpack", "p.safetensors", "-o", "o.safetensors", "--dtype", "bfloat16").code == 0


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_equal_is_exactly_equal(command: str, folder: Path, tq: Callable[..., Any]) -> None:
    """A dump against itself has error 0 and cosine 1, without a rounding error."""
    path = write(folder, gaussian())
    second = [path] if command == "evaluate" else ["-t", "f32"]
    result = tq(command, path, *second, "--json")
    row = json.loads(result.out)["rows"][-1]
    assert row["nmse"] == row["mse"] == row["max_abs_error"] == row["centred_nmse"] == 0
    assert row["cosine_mean"] == row["cosine_min"] == row["cosine_p1"] == 1
