"""Dumps: float K, V and Q of a model, ``layers.{i}.k`` of (batch, heads, seq_len, head_dim)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli import workers
from tqcli.errors import InputError
from tqcli.kernels import choose
from tqcli.kv import checksum
from tqcli.kv.container import Container, Stored, place_of
from tqcli.words import counted

SCHEMA = "tq.dump/2"
FIRST_SCHEMA = "tq.dump/1"  # SHA-256 of each tensor's data, none of the header; read, not written
# Hand-made excerpts: the same tensors, a shorter record without hashes.
EXCERPT_SCHEMA = "excerpt"
SIDES = ("k", "v")
DOMAINS = ("original", "rotated", "codes")
FLOATS = ("float32", "float16", "bfloat16")
# Tensors that are not one of K, V, Q of a layer.
EXTRAS = ("token_ids", "positions")
# Accumulators are kept for each head, so their number is bounded beside the bytes of the file.
MAX_HEADS = 8192  # of all sequences together
MAX_HEAD_DIM = 16_384


@dataclass(frozen=True)
class KVTensor:
    """K, V or Q of one layer.

    Attributes
    ----------
    name : str
        ``layers.{layer}.{side}``.
    layer : int
    side : {"k", "v", "q"}
    stored : Stored
        Gives ``pieces()`` and ``read()``.
    """

    name: str
    layer: int
    side: str
    stored: Stored

    def __repr__(self) -> str:
        """``<layers.3.k: float16 (1, 2, 256, 128)>``."""
        return f"<{self.name}: {self.dtype.name} {self.shape}>"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, heads, seq_len, head_dim)."""
        batch, heads, seq_len, head_dim = self.stored.entry.shape
        return batch, heads, seq_len, head_dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored values."""
        return self.stored.entry.dtype

    @property
    def vectors(self) -> int:
        """Number of vectors: batch * heads * seq_len."""
        batch, heads, seq_len, _ = self.shape
        return batch * heads * seq_len

    def place(self, vector: int) -> str:
        """Words for a flat vector index: ``token 17 head 0``."""
        _, heads, seq_len, _ = self.shape
        rest, token = divmod(vector, seq_len)
        batch, head = divmod(rest, heads)
        prefix = f"batch {batch} " if self.shape[0] > 1 else ""
        return f"{prefix}token {token} head {head}"


class Dump(Container):
    """An open dump.

    Parameters
    ----------
    path : str or path
        A ``.safetensors`` file, or the ``.safetensors.index.json`` of shards.

    Attributes
    ----------
    tensors : list of KVTensor
        By layer, then k, v, q.
    source : dict
        Provenance: kind, model, tokens, RoPE state and so on, as far as known.
    domain : {"original", "rotated", "codes"}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._digests: dict[tuple[str, str], str] = {}
        try:
            self.source, self.domain = self._check_record()
            self.tensors = self._collect()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        """``<dump kv.safetensors: k, v, q of 4 layers, original domain>``."""
        sides = ", ".join(side for side in "kvq" if any(t.side == side for t in self.tensors))
        layers = counted(len(self.layers), "layer")
        return f"<dump {self.path}: {sides} of {layers}, {self.domain} domain>"

    def _check_record(self) -> tuple[dict[str, Any], str]:
        schema = self.record.get("schema")
        if schema is None:
            return {}, "original"  # plain arrays under the right names: no provenance, no hashes
        if schema == EXCERPT_SCHEMA:
            return {k: v for k, v in self.record.items() if k != "schema"}, "original"
        if schema not in (SCHEMA, FIRST_SCHEMA):
            hint = "; unpack it first (tq unpack)" if str(schema).startswith("tq.packed/") else ""
            raise InputError(
                f"{self.path}: schema {schema!r}; a dump is {SCHEMA!r} or {FIRST_SCHEMA!r}{hint}"
            )
        if schema == SCHEMA:
            self.require_checksums()
        source, domain = self.record.get("source"), self.record.get("domain")
        if not isinstance(source, dict) or domain not in DOMAINS:
            raise InputError(f"{self.path}: dump metadata lacks 'source' or a legal 'domain'")
        return source, str(domain)

    def _collect(self) -> list[KVTensor]:
        found = []
        for name, stored in self.stored.items():
            if name in EXTRAS:
                check_extra(self.path, stored)
                continue
            layer, side = place_of(name, self.path)
            if side == "o_gram":
                continue
            if side not in ("k", "v", "q"):
                raise InputError(f"{self.path}: unknown tensor {name!r}; k, v and q are known")
            shape, dtype = stored.entry.shape, stored.entry.dtype.name
            if len(shape) != 4:
                raise InputError(
                    f"{self.path}: {name}: rank {len(shape)}; "
                    "(batch, heads, seq_len, head_dim) is legal"
                )
            check_axes(f"{self.path}: {name}", shape)
            legal = ("uint8",) if self.domain == "codes" else FLOATS
            if dtype not in legal:
                raise InputError(f"{self.path}: {name}: {dtype}; {', '.join(legal)} is legal")
            found.append(KVTensor(name, layer, side, stored))
        if not any(tensor.side in SIDES for tensor in found):
            raise InputError(f"{self.path}: no layers.N.k or layers.N.v in it; not a dump")
        found.sort(key=lambda t: (t.layer, "kvq".index(t.side)))
        self._check_pairs({(t.layer, t.side): t for t in found})
        return found

    def _check_pairs(self, by_place: Mapping[tuple[int, str], KVTensor]) -> None:
        for (layer, side), v in by_place.items():
            k = by_place.get((layer, "k"))
            if side == "v" and k is not None and k.shape[:3] != v.shape[:3]:
                raise InputError(
                    f"{self.path}: layers.{layer}: k {k.shape} and v {v.shape} differ in batch, "
                    "heads or seq_len"
                )

    @property
    def layers(self) -> list[int]:
        """Layer numbers that occur, ascending."""
        return sorted({t.layer for t in self.tensors})

    def kv(self) -> list[KVTensor]:
        """The K and V tensors, without Q."""
        return [t for t in self.tensors if t.side in SIDES]

    def get(self, layer: int, side: str) -> KVTensor | None:
        """One tensor, or None."""
        for tensor in self.tensors:
            if (tensor.layer, tensor.side) == (layer, side):
                return tensor
        return None

    def __enter__(self) -> Dump:
        """The dump itself."""
        return self

    def __iter__(self) -> Iterator[KVTensor]:
        """Over all K, V and Q tensors."""
        return iter(self.tensors)

    def token_ids(self) -> NDArray[np.int32] | None:
        """Token ids, int32 of (batch, seq_len), if the dump has them."""
        stored = self.stored.get("token_ids")
        return None if stored is None else stored.read()

    def fingerprint(self, name: str = checksum.HASH) -> str:
        """Identity of K and V: equal for equal tensors, however sharded and with any metadata.

        The checksum of one line ``NAME HEX`` a tensor, in the order of :attr:`tensors`, with the
        digest of its data.

        Parameters
        ----------
        name : str
            The hash. Tensors whose metadata has no digest by it are read and hashed, once.
        """
        tensors = self.kv()
        jobs = [partial(self._digest, tensor.stored, name) for tensor in tensors]
        digests = workers.run(jobs, choose.threads())
        total = checksum.Digest(name)
        for tensor, own in zip(tensors, digests, strict=True):
            total.update_text(f"{tensor.name} {own.partition(':')[2]}\n")
        return total.checksum()

    def _digest(self, stored: Stored, name: str) -> str:
        """The checksum of a tensor's data by this hash, as promised or as computed."""
        if stored.digest is not None and checksum.name_of(stored.digest) == name:
            return stored.digest
        key = (stored.entry.name, name)
        if key not in self._digests:
            digest = checksum.Digest(name)
            for _, piece in stored.pieces():
                digest.update(piece)
            self._digests[key] = digest.checksum()
        return self._digests[key]


def check_extra(path: str, stored: Stored) -> None:
    """Refuse token ids and positions that are not int32 (seq_len,) or (batch, seq_len)."""
    entry = stored.entry
    if entry.dtype != np.int32 or len(entry.shape) not in (1, 2):
        raise InputError(
            f"{path}: {entry.name}: {entry.dtype.name} {entry.shape}; int32 (batch, seq_len) is "
            "legal"
        )


def check_axes(where: str, shape: tuple[int, ...]) -> None:
    """Refuse (batch, heads, seq_len, head_dim) with empty or absurd axes; seq_len may be 0."""
    batch, heads, _, head_dim = shape
    if 0 in (batch, heads, head_dim):
        raise InputError(f"{where}: shape {shape} has an empty axis; only seq_len may be 0")
    if batch * heads > MAX_HEADS or head_dim > MAX_HEAD_DIM:
        raise InputError(
            f"{where}: shape {shape}; at most {MAX_HEADS} heads of all sequences together and "
            f"head_dim {MAX_HEAD_DIM} are legal"
        )


def open_dump(path: str | os.PathLike[str]) -> Dump:
    """Open and check a dump; close it, or use it in a ``with``.

    Examples
    --------
    >>> with open_dump("fixtures/kv/smollm2-135m.safetensors") as dump:
    ...     dump.layers, dump.get(7, "k").shape
    ([0, 7, 15, 29], (1, 3, 256, 64))
    """
    return Dump(path)


def dump_record(source: Mapping[str, Any], domain: str, version: str) -> dict[str, Any]:
    """Metadata of a dump, without the records of its tensors."""
    return {
        "schema": SCHEMA,
        "tq": version,
        "source": dict(source),
        "domain": domain,
        "tensors": {},
    }
