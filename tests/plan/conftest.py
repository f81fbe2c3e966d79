"""Dumps with positions and a RoPE, as models make them, of any size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import dump_record
from tqcli.rope import UNKNOWN_ROPE, Rope, apply_rope

INV_FREQ = tuple((1e4 ** -(np.arange(32) / 32)).astype(np.float32).tolist())
ROPE = Rope("default", INV_FREQ, theta=1e4)
LAYERS, HEADS, DIM = 2, 2, 64


def keys(lengths: tuple[int, ...], seed: int, rope: Rope = ROPE) -> np.ndarray:
    """K after RoPE of texts one behind the other, float32 (1, 2, tokens, 64): a mean and noise."""
    rng = np.random.default_rng(seed)
    mean = np.random.default_rng(99).standard_normal((HEADS, 1, DIM)) * 3
    texts = [
        apply_rope(mean + rng.standard_normal((HEADS, length, DIM)) * 0.5, np.arange(length), rope)
        for length in lengths
    ]
    return np.concatenate(texts, axis=1)[None]


def write(path: Path, tensors: dict[str, np.ndarray], source: dict[str, Any]) -> Path:
    """A dump of these tensors."""
    record = dump_record(source, "original", "test")
    specs = [(name, values.dtype, values.shape) for name, values in tensors.items()]
    with ContainerWriter(path, specs, record, force=True) as writer:
        for name, values in tensors.items():
            writer.write(name, [values])
    return path


@pytest.fixture
def make_dump(tmp_path: Path) -> Callable[..., Path]:
    """Write a dump of texts; ``changed`` replaces entries of its provenance."""

    def make(
        name: str,
        lengths: tuple[int, ...] = (40, 30),
        *,
        seed: int = 1,
        rope: Rope = ROPE,
        queries: bool = True,
        dtype: str = "float32",
        **changed: Any,
    ) -> Path:
        rng = np.random.default_rng(seed)
        total, turned_by = sum(lengths), ROPE if rope.kind == UNKNOWN_ROPE else rope
        ids = [np.random.default_rng(seed * 100 + n).integers(0, 999, n) for n in lengths]
        positions = [np.arange(n) for n in lengths]
        tensors: dict[str, np.ndarray] = {
            "token_ids": np.concatenate(ids).astype(np.int32)[None],
            "positions": np.concatenate(positions).astype(np.int32)[None],
        }
        for layer in range(LAYERS):
            place = f"layers.{layer}"
            tensors[f"{place}.k"] = keys(lengths, seed * 10 + layer, turned_by).astype(dtype)
            tensors[f"{place}.v"] = rng.standard_normal((1, HEADS, total, DIM)).astype(dtype)
            if queries:
                q = rng.standard_normal((1, 2 * HEADS, total, DIM)).astype(dtype)
                tensors[f"{place}.q"] = q
                gram = np.eye(DIM, dtype=np.float32)[None].repeat(HEADS, 0) * (layer + 1)
                tensors[f"{place}.o_gram"] = gram
        source = {
            "kind": "transformers",
            "model": "tiny",
            "architecture": "llama",
            "config_sha256": "c" * 64,
            "tokenizer_sha256": "d" * 64,
            "sequence_lengths": list(lengths),
            "rope": [{"layers": list(range(LAYERS)), **rope.to_json()}],
            "k": "after RoPE",
        }
        return write(tmp_path / name, tensors, source | changed)

    return make


class Helpers:
    """What tests of this folder share."""

    keys = staticmethod(keys)
    write = staticmethod(write)
    rope = ROPE
    layers, heads, dim = LAYERS, HEADS, DIM


@pytest.fixture(scope="session")
def helpers() -> type[Helpers]:
    """The functions above, since test folders are no packages."""
    return Helpers
