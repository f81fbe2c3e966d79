"""Prompt caches of mlx-lm, in the layouts before and from release 0.32, read and written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tqcli.errors import InputError
from tqcli.sources.arrays.source import ArraysSource, Choice

Run = Callable[..., Any]
LAYERS, TOKENS, PADDED = 2, 5, 8
# As mlx-lm 0.31 and 0.32 write them, for two layers and {"model": "m"}.
OLD = {"0.0": "", "0.1": "", "1.model": "m", "2.0": "KVCache", "2.1": "KVCache"}
NEW = {
    "0.model": "m", "1.0": "KVCache", "1.1": "KVCache", "2.0": "",
    "2.1.0": "0.2", "2.1.1": "scalar", "2.2.0": "1.2", "2.2.1": "scalar",
}  # fmt: skip


def arrays(tokens: int = TOKENS) -> dict[str, np.ndarray]:
    """Keys and values by mlx-lm's names."""
    rng = np.random.default_rng(41)
    shape = (1, 3, tokens, 16)
    names = [f"{layer}.{side}" for layer in range(LAYERS) for side in (0, 1)]
    return {name: rng.standard_normal(shape).astype(np.float16) for name in names}


def counted(count: object = TOKENS, dtype: type = np.int32) -> dict[str, np.ndarray]:
    """Arrays of the newer layout: longer than the cache, with the number of tokens."""
    return arrays(PADDED) | {f"{i}.2": np.array(count, dtype) for i in range(LAYERS)}


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header["__metadata__"])


def tensors(path: Path) -> dict[str, np.ndarray]:
    """What a prompt cache holds, by tq's names."""
    with ArraysSource([path], Choice(preset="mlx")) as source:
        promised = [(spec.name, spec.shape) for spec in source.describe().tensors]
        got = dict(source.tensors())
        assert not [note for note in source.describe().notes if "left out" in note]
    assert promised == [(name, values.shape) for name, values in got.items()]
    return got


@pytest.mark.parametrize("new", [False, True])
def test_both_layouts_are_read(new: bool, tmp_path: Path) -> None:
    """Classes stand in another place since 0.32, and what is behind the last token is no token."""
    path = tmp_path / "cache.safetensors"
    save_file(counted() if new else arrays(), path, NEW if new else OLD)
    whole = arrays(PADDED if new else TOKENS)
    got = tensors(path)
    assert list(got) == ["layers.0.k", "layers.0.v", "layers.1.k", "layers.1.v"]
    for (name, values), want in zip(got.items(), whole.values(), strict=True):
        assert values.tobytes() == np.ascontiguousarray(want[:, :, :TOKENS]).tobytes(), name


def test_kinds_of_layers_in_the_newer_layout(tmp_path: Path) -> None:
    """Recurrent layers are left out, quantized ones refused, as in the older one."""
    path = tmp_path / "cache.safetensors"
    save_file(counted(), path, NEW | {"1.0": "ArraysCache"})
    assert list(tensors(path)) == ["layers.1.k", "layers.1.v"]
    save_file(counted(), path, NEW | {"1.1": "QuantizedKVCache"})
    with pytest.raises(InputError, match="layer 1 is a QuantizedKVCache"):
        ArraysSource([path], Choice(preset="mlx"))


@pytest.mark.parametrize(
    ("count", "dtype", "message"),
    [(-1, np.int32, "-1 tokens"), (5, np.float32, "a number of tokens"), ([5], np.int32, "(1,)")],
)
def test_counts_that_are_none(count: object, dtype: type, message: str, tmp_path: Path) -> None:
    """A number of tokens is one whole number, not negative."""
    path = tmp_path / "cache.safetensors"
    save_file(counted(count, dtype), path, NEW)
    with pytest.raises(InputError) as refused:
        ArraysSource([path], Choice(preset="mlx"))
    assert message in str(refused.value)


@pytest.mark.parametrize("layout", [OLD, NEW])
def test_there_and_back(layout: dict[str, str], tmp_path: Path, tq: Run) -> None:
    """Like a probe: its layout, its metadata, the values bit for bit."""
    first, dump, second = (tmp_path / f"{name}.safetensors" for name in "abc")
    save_file(arrays() if layout is OLD else counted(), first, layout)
    assert tq("dump", first, "--preset", "mlx", "-o", dump).code == 0
    result = tq("restore", dump, "-o", second, "--as", "mlx", "--like", first)
    assert (result.code, result.err) == (0, "")
    assert metadata(second) == layout
    for name, values in tensors(first).items():
        assert tensors(second)[name].tobytes() == values.tobytes()


def test_a_save_file_becomes_a_prompt_cache(fixtures: Path, tmp_path: Path, tq: Run) -> None:
    """From llama.cpp to mlx-lm: K in the model's own order, the newer layout by default."""
    dump, cache = tmp_path / "kv.safetensors", tmp_path / "cache.safetensors"
    heads = ("--heads", 3, "--head-dim", 64, "--arch", "llama")
    assert tq("dump", fixtures / "llamacpp/f16-flash-slot.bin", *heads, "-o", dump).code == 0
    result = tq("restore", dump, "-o", cache, "--as", "mlx")
    assert (result.code, result.err) == (0, "")
    assert "prompt cache for mlx-lm 0.32 or later" in result.out
    found = metadata(cache)
    assert found["2.0"] == ""
    assert {found[f"1.{i}"] for i in range(30)} == {"KVCache"}
    with np.load(fixtures / "llamacpp/expected.npz") as expected:
        k = tensors(cache)["layers.7.k"][0].astype(np.float32)
        assert np.linalg.norm(k - expected["k"][7]) < 1e-2 * np.linalg.norm(expected["k"][7])


def test_what_mlx_is_not_asked(smollm: Path, tmp_path: Path, tq: Run) -> None:
    """Types of llama.cpp mean nothing there; a cache has all layers; a probe is a prompt cache."""
    out = tmp_path / "cache.safetensors"
    for options, code, message in (
        (("--as", "mlx", "-ctk", "f16"), 2, "-ctk: means nothing for a mlx source"),
        (("--as", "mlx"), 3, "layers or sides are missing"),
        (("--as", "mlx", "--like", smollm), 3, "a prompt cache of mlx-lm is expected"),
        (("--as", "sglang"), 2, "legal are llama.cpp and mlx"),
    ):
        result = tq("restore", smollm, "-o", out, *options)
        assert (result.code, result.out) == (code, "")
        assert message in result.err
    assert not out.exists()
