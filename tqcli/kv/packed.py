"""Packed caches: ``layers.{i}.k.blocks``, the exact bytes that an engine stores.

A tensor of blocks is uint8 of (batch, heads, coded, blocks_per_vector, block_bytes); its record
holds the codec (one, or one a head), head_dim before padding and the dtype it was made from.
Tokens that are kept in float16 instead stand in ``layers.{i}.k.kept``, (batch, heads, kept,
head_dim), the mean that was taken from the coded keys in ``layers.{i}.k.mean``, (heads, head_dim).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
_KEPT, _MEAN = ".kept", ".mean"


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
    type : str
        As a plan writes it, modifiers included.
    keep : tuple of int
        Tokens kept in float16 at the beginning and at the end of each text.
    kept : Stored or None
        Those tokens, float16 (batch, heads, kept, head_dim).
    mean : Stored or None
        What was taken from the coded keys, float16 (heads, head_dim).
    center : mapping
        Of the mean: ``rope`` (None: it is one of K after RoPE) and ``origin``.
    """

    name: str
    layer: int
    side: str
    codecs: tuple[Codec, ...]
    head_dim: int
    dtype: str
    stored: Stored
    type: str = ""
    keep: tuple[int, int] = (0, 0)
    kept: Stored | None = None
    mean: Stored | None = None
    center: Mapping[str, Any] = field(default_factory=dict)

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
        batch, heads, coded, _, _ = self.stored.entry.shape
        kept = 0 if self.kept is None else self.kept.entry.shape[2]
        return batch, heads, coded + kept, self.head_dim

    @property
    def nbytes(self) -> int:
        """Bytes of blocks, kept tokens and mean."""
        parts = (self.stored, self.kept, self.mean)
        return sum(part.entry.nbytes for part in parts if part is not None)

    @property
    def bits_per_value(self) -> float | None:
        """All that is stored over the values of the dump; None where there are none."""
        values = math.prod(self.shape)
        return 8 * self.nbytes / values if values else None


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
            if self._belongs(name):
                continue
            if not what.endswith(_SUFFIX) or what[: -len(_SUFFIX)] not in SIDES:
                raise InputError(
                    f"{self.path}: unknown tensor {name!r}; layers.N.k.blocks is legal"
                )
            found.append(self._check(name, layer, what[: -len(_SUFFIX)], stored))
        if not found:
            raise InputError(f"{self.path}: no layers.N.k.blocks in it; not a packed cache")
        return sorted(found, key=lambda t: (t.layer, SIDES.index(t.side)))

    def _belongs(self, name: str) -> bool:
        """Whether it is a part of blocks that stand beside it."""
        stem, dot, what = name.rpartition(".")
        return dot + what in (_KEPT, _MEAN) and f"{stem}{_SUFFIX}" in self.stored

    def _part(self, name: str, suffix: str, shape: tuple[int | None, ...]) -> Stored | None:
        """Float16 beside blocks, of `shape` where that is not None."""
        stored = self.stored.get(name[: -len(_SUFFIX)] + suffix)
        if stored is None:
            return None
        entry, where = stored.entry, f"{self.path}: {name[: -len(_SUFFIX)]}{suffix}"
        fits = len(entry.shape) == len(shape) and all(
            want in (None, have) for have, want in zip(entry.shape, shape, strict=True)
        )
        if entry.dtype != np.float16 or not fits:
            wanted = ", ".join("kept" if n is None else str(n) for n in shape)
            raise InputError(f"{where}: {entry.dtype} {entry.shape}; it is float16 ({wanted})")
        if stored.digest is None:
            raise InputError(f"{where}: metadata lacks its digest")
        return stored

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
        batch, heads = entry.shape[:2]
        kept = self._part(name, _KEPT, (batch, heads, None, head_dim))
        mean = self._part(name, _MEAN, (heads, head_dim))
        keep, center, kind = record.get("keep", [0, 0]), record.get("center"), record.get("type")
        if not (isinstance(keep, list) and len(keep) == 2 and all(map(_is_count, keep))):
            raise InputError(f"{where}: keep {keep!r}; it is two numbers of tokens")
        if (kept is not None) != any(keep) or (mean is not None) != isinstance(center, Mapping):
            raise InputError(f"{where}: the record and the tensors beside it do not agree")
        return PackedTensor(
            name[: -len(_SUFFIX)],
            layer,
            side,
            made,
            head_dim,
            dtype,
            stored,
            kind if isinstance(kind, str) else made[0].id,
            (keep[0], keep[1]),
            kept,
            mean,
            center or {},
        )

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
    source: Mapping[str, Any],
    domain: str,
    fingerprint: str | None,
    version: str,
    plan: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Metadata of a packed cache, without the records of its tensors.

    `fingerprint` is that of the dump, None where blocks came without one; `plan` what the cache
    plan says of itself.
    """
    return {
        **({} if plan is None else {"plan": dict(plan)}),
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


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
