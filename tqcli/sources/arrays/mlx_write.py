"""Write a prompt cache that mlx-lm loads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError, input_error
from tqcli.kv.atomic import replacing, reserve
from tqcli.kv.positional import write_at
from tqcli.sources.arrays.files import opened
from tqcli.sources.arrays.mlx import PLAIN, is_since_032
from tqcli.sources.base import Source, TensorSpec

_DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
_SIZES = {"float16": 2, "bfloat16": 2, "float32": 4}
_DIGITS = {"k": "0", "v": "1"}
_ALIGNMENT = 8


@dataclass(frozen=True)
class MlxFile:
    """Metadata of a prompt cache: which layout, and what the caller of mlx-lm put in."""

    since_032: bool = True
    own: Mapping[str, str] | None = None

    def metadata(self, layers: int) -> dict[str, str]:
        """The flattened tree that mlx-lm unflattens."""
        own = self.own or {}
        classes = {f"{1 if self.since_032 else 2}.{i}": PLAIN for i in range(layers)}
        if not self.since_032:
            states = {f"0.{i}": "" for i in range(layers)}
            return states | {f"1.{key}": value for key, value in own.items()} | classes
        found = {f"0.{key}": value for key, value in own.items()} | classes | {"2.0": ""}
        for i in range(layers):
            found |= {f"2.{i + 1}.0": f"{i}.2", f"2.{i + 1}.1": "scalar"}
        return found


def read_mlx_file(path: Path) -> MlxFile:
    """Layout and the caller's own metadata of a prompt cache that mlx-lm saved.

    Raises
    ------
    InputError
        It is none.
    """
    with opened(path) as part:
        metadata = part.metadata
    new = is_since_032(metadata)
    if not any(value == PLAIN for value in metadata.values()):
        raise input_error(path, "no layer is a KVCache", "a prompt cache of mlx-lm is expected")
    prefix = "0." if new else "1."
    own = {key[2:]: value for key, value in metadata.items() if key.startswith(prefix)}
    return MlxFile(new, own)


def write_mlx(
    source: Source, where: Path, path: Path, layout: MlxFile, *, force: bool = False
) -> list[dict[str, Any]]:
    """Write K and V of a source as a prompt cache.

    Parameters
    ----------
    source : Source
        Yields ``layers.{i}.k`` and ``.v``, (batch, heads, seq_len, head_dim), by layer from 0.
    where, path : path
        Of the source, for messages; of the file to write.
    layout : MlxFile
    force : bool
        Replace an existing file.

    Returns
    -------
    list of dict
        One row a tensor.

    Raises
    ------
    InputError
        Layers or sides are missing, or the tensors are no cache.
    """
    info = source.describe()
    if info.provenance.get("k") == "before RoPE":
        raise input_error(where, "K before RoPE", "a prompt cache holds K after RoPE")
    specs = [s for s in info.tensors if s.name.rsplit(".")[-1] in _DIGITS]
    names = [f"layers.{i}.{side}" for i in range((len(specs) + 1) // 2) for side in "kv"]
    if not specs or [spec.name for spec in specs] != names:
        raise input_error(where, "layers or sides are missing", "a cache has K and V of all layers")
    wanted = {spec.name: spec for spec in specs}
    header = _header(specs, layout)
    rows = []
    with replacing(path, force=force) as file:
        reserve(file, len(header) + sum(size for *_, size in _entries(specs, layout)))
        write_at(file, memoryview(header), 0)
        at = len(header)
        for name, values in source.tensors():
            if (spec := wanted.get(name)) is None:
                continue
            if values.shape != spec.shape:
                raise InputError(f"{where}: {name}: {values.shape}; {spec.shape} was announced")
            write_at(file, np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, at)
            at += values.nbytes
            rows.append(_row(spec, values))
        if layout.since_032:
            counts = np.array([spec.shape[2] for spec in specs[::2]], "<i4")
            write_at(file, counts.view(np.uint8).data, at)
    return rows


def _header(specs: list[TensorSpec], layout: MlxFile) -> bytes:
    entries: dict[str, Any] = {"__metadata__": layout.metadata(len(specs) // 2)}
    at = 0
    for name, dtype, shape, size in _entries(specs, layout):
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _entries(
    specs: list[TensorSpec], layout: MlxFile
) -> Iterator[tuple[str, str, tuple[int, ...], int]]:
    """Name, dtype, shape and bytes of every array, in the order of the file."""
    for spec in specs:
        _, layer, side = spec.name.split(".")
        yield f"{layer}.{_DIGITS[side]}", _DTYPES[spec.dtype], spec.shape, _size(spec)
    for index in range(len(specs) // 2 if layout.since_032 else 0):
        yield f"{index}.2", "I32", (), 4


def _size(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape, dtype=object)) * _SIZES[spec.dtype]


def _row(spec: TensorSpec, values: NDArray[Any]) -> dict[str, Any]:
    batch, heads, seq_len, head_dim = spec.shape
    return {
        "tensor": spec.name,
        "type": spec.dtype,
        "batch": batch,
        "heads": heads,
        "seq_len": seq_len,
        "head_dim": head_dim,
        "bytes": values.nbytes,
    }
