"""Packed caches: ``layers.{i}.k.blocks``, the exact bytes that an engine stores.

A tensor of blocks is uint8 of (batch, heads, seq_len, blocks_per_vector, block_bytes); its record
holds the codec (one, or one a head), head_dim before padding and the dtype it was made from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tqcli import codecs
from tqcli.codecs import Codec
from tqcli.errors import InputError
from tqcli.kv import checksum
from tqcli.kv.container import Container, Stored, place_of
from tqcli.kv.dump import EXTRAS, FLOATS, SIDES, Dump, check_axes, check_extra
from tqcli.words import counted

SCHEMA = "tq.packed/2"
FIRST_SCHEMA = "tq.packed/1"  # SHA-256 of each tensor's data, none of the header; only read
SCHEMAS = (SCHEMA, FIRST_SCHEMA)
_SUFFIX = ".blocks"


@dataclass(frozen=True)
class PackedTensor:
    """Blocks of K or V of one layer.

    Attributes
    ----------
    name : str
        ``layers.{layer}.{side}``, the dump's name.
    codecs : tuple of Codec
        One for all heads, or one a head.
    head_dim : int
        Before padding.
    dtype : str
        Of the dump that was packed.
    """

    name: str
    layer: int
    side: str
    codecs: tuple[Codec, ...]
    head_dim: int
    dtype: str
    stored: Stored

    def __repr__(self) -> str:
        """``<layers.3.k: turbo3 blocks of (1, 2, 256, 128)>``."""
        return f"<{self.name}: {self.types} blocks of {self.shape}>"

    @property
    def types(self) -> str:
        """Ids of its codecs, each once."""
        return " ".join(dict.fromkeys(codec.id for codec in self.codecs))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, heads, seq_len, head_dim) of the dump."""
        batch, heads, seq_len, _, _ = self.stored.entry.shape
        return batch, heads, seq_len, self.head_dim


class Packed(Container):
    """An open packed cache.

    Attributes
    ----------
    tensors : list of PackedTensor
        By layer, k before v.
    source : dict
        Provenance of the dump.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        try:
            schema = self.record.get("schema")
            if schema not in SCHEMAS:
                hint = "; pack it first (tq quantize)" if str(schema).startswith("tq.dump/") else ""
                raise InputError(
                    f"{self.path}: schema {schema!r}; a packed cache is "
                    f"{' or '.join(map(repr, SCHEMAS))}{hint}"
                )
            if schema == SCHEMA:
                self.require_checksums()
            source = self.record.get("source")
            if not isinstance(source, dict):
                raise InputError(f"{self.path}: metadata lacks 'source'")
            self.source: dict[str, Any] = source
            self.tensors = self._collect()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        """``<packed cache p.safetensors: k q8_0, v turbo3 of 4 layers>``."""
        kinds = dict.fromkeys(f"{t.side} {t.types}" for t in self.tensors)
        layers = counted(len({t.layer for t in self.tensors}), "layer")
        return f"<packed cache {self.path}: {', '.join(kinds)} of {layers}>"

    def _collect(self) -> list[PackedTensor]:
        found = []
        for name, stored in self.stored.items():
            if name in EXTRAS:
                check_extra(self.path, stored)
                continue
            layer, what = place_of(name, self.path)
            if not what.endswith(_SUFFIX) or what[: -len(_SUFFIX)] not in SIDES:
                raise InputError(
                    f"{self.path}: unknown tensor {name!r}; layers.N.k.blocks is legal"
                )
            found.append(self._check(name, layer, what[: -len(_SUFFIX)], stored))
        if not found:
            raise InputError(f"{self.path}: no layers.N.k.blocks in it; not a packed cache")
        return sorted(found, key=lambda t: (t.layer, SIDES.index(t.side)))

    def _check(self, name: str, layer: int, side: str, stored: Stored) -> PackedTensor:
        where = f"{self.path}: {name}"
        record, entry = stored.record, stored.entry
        configs, head_dim, dtype = record.get("codec"), record.get("head_dim"), record.get("dtype")
        if not isinstance(head_dim, int) or isinstance(head_dim, bool):
            raise InputError(f"{where}: head_dim {head_dim!r}; a whole number is legal")
        if dtype not in FLOATS:
            raise InputError(f"{where}: dtype {dtype!r}; {', '.join(FLOATS)} are legal")
        if stored.digest is None:
            raise InputError(f"{where}: metadata lacks sha256")
        if not isinstance(configs, list):
            configs = [configs]
        if not all(isinstance(c, Mapping) for c in configs):
            raise InputError(f"{where}: metadata lacks the codec")
        if entry.dtype != np.uint8 or len(entry.shape) != 5:
            raise InputError(
                f"{where}: {entry.dtype} of rank {len(entry.shape)}; uint8 (batch, heads, seq_len, "
                "blocks_per_vector, block_bytes) is legal"
            )
        check_axes(where, (*entry.shape[:3], head_dim))
        if len(configs) not in (1, entry.shape[1]):
            raise InputError(f"{where}: {len(configs)} codecs for {entry.shape[1]} heads")
        made = tuple(codecs.from_config(config, where) for config in configs)
        for codec in made:
            try:
                legal = codec.blocks_shape(head_dim)
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
            if entry.shape[3:] != legal:
                raise InputError(
                    f"{where}: {entry.shape[3]} blocks of {entry.shape[4]} bytes a vector; "
                    f"{codec.id} of head_dim {head_dim} has {legal[0]} of {legal[1]}"
                )
        return PackedTensor(name[: -len(_SUFFIX)], layer, side, made, head_dim, dtype, stored)

    @property
    def origin(self) -> str | None:
        """The fingerprint of the dump that was packed; None where it does not say."""
        dump = self.record.get("dump")
        if not isinstance(dump, Mapping):
            return None
        if first := dump.get("sha256"):  # schema version 1
            return f"{checksum.FIRST_HASH}:{first}"
        return str(dump["fingerprint"]) if dump.get("fingerprint") else None

    def made_from(self, dump: Dump) -> bool:
        """Whether this cache says that it was made from just these K and V."""
        name = checksum.name_of(self.origin or "")
        return name in checksum.HASHES and self.origin == dump.fingerprint(name)

    def get(self, layer: int, side: str) -> PackedTensor | None:
        """One tensor, or None."""
        for tensor in self.tensors:
            if (tensor.layer, tensor.side) == (layer, side):
                return tensor
        return None

    def __enter__(self) -> Packed:
        """The cache itself."""
        return self


def open_packed(path: str | os.PathLike[str]) -> Packed:
    """Open and check a packed cache; close it, or use it in a ``with``."""
    return Packed(path)


def packed_record(
    source: Mapping[str, Any], domain: str, fingerprint: str | None, version: str
) -> dict[str, Any]:
    """Metadata of a packed cache, without the records of its tensors.

    `fingerprint` is that of the dump; None where blocks came without one.
    """
    return {
        "schema": SCHEMA,
        "tq": version,
        "source": dict(source),
        "dump": {"fingerprint": fingerprint, "domain": domain},
        "tensors": {},
    }


def blocks_record(made: Sequence[Codec], head_dim: int, dtype: str) -> dict[str, Any]:
    """Record of one tensor of blocks."""
    configs = [codec.config() for codec in made]
    same = all(config == configs[0] for config in configs)
    return {"codec": configs[0] if same else configs, "head_dim": head_dim, "dtype": dtype}
