"""What a GGUF file says about its attention: read from the metadata, no tensor is touched.

Only a few keys are kept; the vocabulary and everything else is stepped over, so that memory stays
small whatever the file claims. The layout is the GGUF specification's, versions 2 and 3.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tqcli.errors import input_error
from tqcli.sources.binary import FieldReader

MAGIC = 0x46554747  # "GGUF"
VERSIONS = (2, 3)
MAX_KEY_BYTES = 65535  # the specification's limit
MAX_KEPT_ITEMS = 1024  # llama.cpp knows 512 layers
MAX_KEPT_TEXT = 4096
MAX_KEPT_KEYS = 64
MAX_DEPTH = 4
_MIN_ENTRY = 8 + 4 + 1  # key length, value type, the smallest value
_MIN_TENSOR = 8 + 4 + 4 + 8  # name length, rank, type, offset

# GGUF value types: number -> struct format; 8 is a string, 9 an array
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_VOCABULARY = "tokenizer.ggml.tokens"  # only its length is taken
_ROPE = {
    "freq_base": "theta",
    "dimension_count": "dims",
    "dimension_sections": "sections",
    "scaling.type": "scaling",
    "scaling.factor": "scaling_factor",
    "scaling.original_context_length": "original_context",
}
_WANTED = (
    "general.architecture",
    "general.name",
    ".block_count",
    ".embedding_length",
    ".attention.head_count",
    ".attention.head_count_kv",
    ".attention.key_length",
    ".attention.value_length",
    ".attention.sliding_window",
    *(f".rope.{key}" for key in _ROPE),
)


@dataclass(frozen=True)
class GgufHeader:
    """Attention geometry of a model, per layer where the file says so.

    Parameters
    ----------
    arch : str
        ``general.architecture``.
    name : str
        ``general.name``, or the architecture.
    layers : int
        ``block_count``.
    heads, kv_heads : tuple of int
        Query and K/V heads of each layer; a layer without attention has 0 K/V heads.
    head_dim_k, head_dim_v : int
    rope : dict
        ``theta``, ``dims``, ``scaling`` ... as far as the file gives them.
    rope_factors : bool
        Whether a tensor of the file scales the rotary frequencies besides.
    config_sha256 : str
        Hash of the metadata that was kept, as sorted JSON.
    vocab : int or None
        Tokens of the vocabulary.
    """

    arch: str
    name: str
    layers: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    head_dim_k: int
    head_dim_v: int
    rope: dict[str, Any]
    rope_factors: bool
    config_sha256: str
    vocab: int | None = None

    @property
    def uses_mrope(self) -> bool:
        """Whether positions have sections (M-RoPE), which widens the cells of a save file."""
        return any(self.rope.get("sections") or ())


def read_header(path: str | os.PathLike[str]) -> GgufHeader:
    """Read a GGUF's metadata.

    Raises
    ------
    InputError
        The file is no GGUF of version 2 or 3, is damaged, or lacks a key that is needed.
    """
    with FieldReader(path) as reader:
        kept, tensors, vocab = _metadata(reader)
        return _header(reader, kept, _has_rope_factors(reader, tensors), vocab)


def _metadata(reader: FieldReader) -> tuple[dict[str, Any], int, int | None]:
    """Keys that are wanted, the number of tensors, and that of the vocabulary's tokens."""
    if reader.u32("magic") != MAGIC:
        raise reader.fail("no GGUF magic", "a GGUF file is needed", "give --model a .gguf")
    version = reader.u32("version")
    if version not in VERSIONS:
        raise reader.fail(f"GGUF version {version}", "legal: 2, 3 (little-endian)")
    tensors = reader.u64("tensor count")
    count = reader.u64("metadata count")
    reader.need(count * _MIN_ENTRY, f"{count} metadata entries")
    kept: dict[str, Any] = {}
    vocab: int | None = None
    for _ in range(count):
        key = _text(reader, "metadata key", MAX_KEY_BYTES)
        kind = reader.u32("value type")
        if key == _VOCABULARY and kind == _ARRAY:
            start = reader.at
            reader.u32("array type")
            vocab = reader.u64("array length")
            reader.seek(start)
        wanted = key.endswith(_WANTED) and len(kept) < MAX_KEPT_KEYS
        value = _value(reader, kind, wanted, 0)
        if key in kept:
            raise reader.fail(f"key {key!r} comes twice", "keys are unique")
        if wanted and value is not None:
            kept[key] = value
    return kept, tensors, vocab


def _has_rope_factors(reader: FieldReader, tensors: int) -> bool:
    """Whether a tensor scales the rotary frequencies, which the metadata does not say."""
    reader.need(tensors * _MIN_TENSOR, f"{tensors} tensors")
    found = False
    for _ in range(tensors):
        name = _text(reader, "tensor name", MAX_KEY_BYTES)
        found |= "rope_f" in name
        reader.skip(8 * reader.u32("rank") + 4 + 8, "tensor shape, type and offset")
    return found


def _value(reader: FieldReader, kind: int, keep: bool, depth: int) -> Any:
    """Read one value; None where it is not kept."""
    if kind in _SCALARS:
        form = struct.Struct(_SCALARS[kind])
        return form.unpack(reader.raw(form.size, "value"))[0]
    if kind == _STRING:
        length = reader.u64("string length")
        if not keep or length > MAX_KEPT_TEXT:
            reader.skip(length, "string")
            return None
        return _decode(reader, reader.raw(length, "string"))
    if kind == _ARRAY and depth < MAX_DEPTH:
        inner = reader.u32("array type")
        count = reader.u64("array length")
        if inner in _SCALARS and not (keep and count <= MAX_KEPT_ITEMS):
            reader.skip(count * struct.calcsize(_SCALARS[inner]), "array")
            return None
        reader.need(count * _smallest(inner), f"array of {count} items")
        keep = keep and count <= MAX_KEPT_ITEMS and inner in _SCALARS
        items: list[Any] | None = [] if keep else None
        for _ in range(count):
            item = _value(reader, inner, keep, depth + 1)
            if items is not None:
                items.append(item)
        return items
    raise reader.fail(f"value type {kind}", "legal: 0 to 12, arrays nested at most 4 deep")


def _smallest(kind: int) -> int:
    if kind in _SCALARS:
        return struct.calcsize(_SCALARS[kind])
    return 8 if kind == _STRING else 12


def _text(reader: FieldReader, field: str, limit: int) -> str:
    length = reader.u64(f"{field} length")
    if length > limit:
        raise reader.fail(f"{field} of {length} bytes", f"at most {limit}")
    return _decode(reader, reader.raw(length, field))


def _decode(reader: FieldReader, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise reader.fail("a string that is no UTF-8", "text is UTF-8") from None


def _header(
    reader: FieldReader, kept: dict[str, Any], factors: bool, vocab: int | None
) -> GgufHeader:
    def missing(key: str) -> Exception:
        return input_error(
            reader.path, f"no usable {key!r} in the metadata", "it is needed for K/V shapes"
        )

    arch = kept.get("general.architecture")
    if not isinstance(arch, str):
        raise missing("general.architecture")
    layers = _count(kept, f"{arch}.block_count", missing)
    if layers > MAX_KEPT_ITEMS:
        raise input_error(reader.path, f"block_count {layers}", f"at most {MAX_KEPT_ITEMS}")
    heads = _per_layer(kept, f"{arch}.attention.head_count", layers, missing)
    kv_key = f"{arch}.attention.head_count_kv"
    kv_heads = _per_layer(kept, kv_key, layers, missing) if kv_key in kept else heads
    key_k, key_v = f"{arch}.attention.key_length", f"{arch}.attention.value_length"
    if key_k in kept:
        dim_k = _count(kept, key_k, missing)
    else:
        dim_k = _count(kept, f"{arch}.embedding_length", missing) // max(1, *heads, 1)
    dim_v = _count(kept, key_v, missing) if key_v in kept else dim_k
    if dim_k < 1 or dim_v < 1:
        raise missing(key_k)
    name = kept.get("general.name")
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    return GgufHeader(
        arch=arch,
        name=name if isinstance(name, str) else arch,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim_k=dim_k,
        head_dim_v=dim_v,
        rope=_rope(kept, arch),
        rope_factors=factors,
        config_sha256=digest,
        vocab=vocab,
    )


def _rope(kept: dict[str, Any], arch: str) -> dict[str, Any]:
    found = {ours: kept.get(f"{arch}.rope.{theirs}") for theirs, ours in _ROPE.items()}
    return {
        key: value
        for key, value in found.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }


def _count(kept: dict[str, Any], key: str, missing: Callable[[str], Exception]) -> int:
    value = kept.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise missing(key)
    return value


def _per_layer(
    kept: dict[str, Any], key: str, layers: int, missing: Callable[[str], Exception]
) -> tuple[int, ...]:
    """One number for all layers, or a list with one for each (0: no attention there)."""
    value = kept.get(key)
    if not isinstance(value, list):
        return (_count(kept, key, missing),) * layers
    good = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**20 for n in value)
    if len(value) != layers or not good:
        raise missing(key)
    return tuple(value)
