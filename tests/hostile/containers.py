"""Small safetensors files by hand, legal or not: no library writes the latter."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

NAMES = {np.dtype(np.float16): "F16", np.dtype(np.float32): "F32", np.dtype(np.uint8): "U8"}


def entry(shape: list[Any], start: Any, end: Any, dtype: str = "F16") -> dict[str, Any]:
    """The header's record of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def raw(header: Mapping[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with any header, any data, and perhaps a lie about the header's length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def file_of(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any] | None = None) -> bytes:
    """A well-formed file of `arrays`, with this metadata record if there is one."""
    header: dict[str, Any] = {}
    if record is not None:
        header["__metadata__"] = {"tq": json.dumps(record)}
    data = b""
    for name, array in arrays.items():
        header[name] = entry(
            list(array.shape), len(data), len(data) + array.nbytes, NAMES[array.dtype]
        )
        data += array.tobytes()
    return raw(header, data)


def split(file: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a file."""
    end = 8 + int.from_bytes(file[:8], "little")
    return json.loads(file[8:end]), file[end:]


def record_of(file: bytes) -> dict[str, Any]:
    """The metadata record of a file."""
    return json.loads(split(file)[0]["__metadata__"]["tq"])


def with_record(file: bytes, record: Any) -> bytes:
    """The file with another metadata record, and with a checksum that fits if it had one."""
    header, data = split(file)
    text = record if isinstance(record, str) else sealed(header, record)
    return raw({**header, "__metadata__": {"tq": text}}, data)


def sealed(header: Mapping[str, Any], record: Any) -> str:
    """The text of a record, its checksum mended as docs/format.md says; others stay as they are."""
    own = record.get("checksum") if isinstance(record, dict) else None
    if not isinstance(own, str) or not own.startswith("blake3:"):
        return json.dumps(record)
    text = json.dumps({**record, "checksum": f"blake3:{'0' * 64}"})
    lines = [
        f"\n{name} {tensor['dtype']} {','.join(map(str, tensor['shape']))}"
        for name, tensor in sorted(header.items())
        if name != "__metadata__"
    ]
    own = blake3("".join([text, *lines]).encode()).hexdigest()
    return text.replace("0" * 64, own, 1)


def sha256(array: np.ndarray) -> str:
    """The hash of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def write_index(folder: Path, homes: Mapping[str, Any], name: str = "d") -> Path:
    """A shard index beside the shards."""
    path = folder / f"{name}.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": homes}))
    return path
