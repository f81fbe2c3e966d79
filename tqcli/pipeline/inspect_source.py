"""What a source of tensors holds, before anything is read in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqcli.errors import UsageError
from tqcli.pipeline.inspect import Inspection
from tqcli.sources.base import Source
from tqcli.sources.llamacpp.gguf_header import read_header

# K and V, and the token ids and positions beside them.
_AXES = {4: ("batch", "heads", "seq_len", "head_dim"), 2: ("batch", "seq_len")}


def inspect_source(kind: str, source: Source) -> Inspection:
    """Describe a llama.cpp save file or arrays."""
    info = source.describe()
    rows = [
        {
            "tensor": spec.name,
            "type": spec.stored or spec.dtype,
            **dict(zip(_AXES[len(spec.shape)], spec.shape, strict=True)),
            "bytes": spec.nbytes or None,
        }
        for spec in info.tensors
    ]
    notes = [
        f"{key}: {value}"
        for key, value in info.provenance.items()
        if isinstance(value, str | int | float)
    ]
    return Inspection(kind, rows, [*notes, *info.notes], dict(info.provenance))


def inspect_gguf(path: Path) -> Inspection:
    """Describe the cache that a GGUF model makes, from its header: a row a layer."""
    header = read_header(path)
    rows = [
        {
            "tensor": f"layers.{layer}",
            "type": "no K/V" if kv_heads == 0 else "K and V",
            "heads": kv_heads,
            "query_heads": heads,
            "head_dim": header.head_dim_k,
            "head_dim_v": header.head_dim_v,
        }
        for layer, (heads, kv_heads) in enumerate(zip(header.heads, header.kv_heads, strict=True))
    ]
    values = sum(header.kv_heads) * (header.head_dim_k + header.head_dim_v)
    notes = [
        f"architecture: {header.arch}",
        f"name: {header.name}",
        f"a token takes {2 * values} bytes of f16 cache",
    ]
    return Inspection("GGUF model", rows, notes, {"rope": dict(header.rope)})


def inspect_config(path: Path) -> Inspection:
    """Describe the cache that a model folder makes, from its ``config.json``."""
    from tqcli.jsonfile import read_json

    config: Any = read_json(path / "config.json", "a model's config", 16 << 20)
    if not isinstance(config, dict):
        raise UsageError(f"{path}: config.json is no object; give a model folder")
    text = config.get("text_config", config)
    layers, heads = text.get("num_hidden_layers"), text.get("num_attention_heads")
    hidden = text.get("hidden_size")
    if not all(isinstance(n, int) and n > 0 for n in (layers, heads, hidden)):
        raise UsageError(f"{path}: config.json names no layers, heads or hidden size")
    kinds = text.get("layer_types") or ["full_attention"] * layers
    row = {
        "heads": text.get("num_key_value_heads") or heads,
        "query_heads": heads,
        "head_dim": text.get("head_dim") or hidden // heads,
    }
    rows = [{"tensor": f"layers.{i}", "type": kind} | row for i, kind in enumerate(kinds)]
    notes = [f"model: {config.get('model_type')}", "K and V exist once a text was read: tq dump"]
    return Inspection("model folder", rows, notes, config)
