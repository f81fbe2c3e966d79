"""What a file holds, from its header; with `verify`, whether its hashes hold too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqcli.codebook import CodebookSet, distortion_on_gaussian, read_codebook
from tqcli.kv.container import INDEX_SUFFIX, Container
from tqcli.kv.dump import Dump
from tqcli.kv.packed import SCHEMAS as PACKED_SCHEMAS
from tqcli.kv.packed import Packed
from tqcli.pipeline.pieces import Progress, no_progress


@dataclass(frozen=True)
class Inspection:
    """Kind of file, a row a tensor or table, what a person should know, and the raw metadata."""

    kind: str
    rows: list[dict[str, Any]]
    notes: list[str]
    metadata: Mapping[str, Any]


def is_container(path: Path) -> bool:
    """Whether a path is, by its name, one of tq's own: ``.safetensors`` or JSON."""
    return path.suffix in (".safetensors", ".json")


def inspect_path(
    path: Path, *, verify: bool = False, progress: Progress = no_progress
) -> Inspection:
    """Describe a dump, a packed cache or a codebook.

    Raises
    ------
    InputError
        If it is none of them, is damaged, or (with `verify`) its hashes do not hold.
    """
    if path.name.endswith(".json") and not path.name.endswith(INDEX_SUFFIX):
        return _codebook(read_codebook(path))
    container = Container(path)
    try:
        schema = container.record.get("schema")
        if verify:
            for stored in container.stored.values():
                for _, piece in stored.pieces():
                    progress(piece.nbytes)
    finally:
        container.close()
    if schema in PACKED_SCHEMAS:
        with Packed(path) as packed:
            return _packed(packed)
    with Dump(path) as dump:
        return _dump(dump)


def _dump(dump: Dump) -> Inspection:
    rows = [
        _row(t.name, t.dtype.name, t.shape, t.stored.entry.nbytes, t.stored.digest)
        for t in dump.tensors
    ]
    have = {(t.layer, t.side) for t in dump.tensors}
    notes = _source_notes(dump.source)
    if dump.domain != "original":
        notes.append(f"domain: {dump.domain}")
    notes += [
        f"layers.{layer} has no {side}"
        for layer in dump.layers
        for side in "kv"
        if (layer, side) not in have
    ]
    if not any(side == "q" for _, side in have):
        notes.append("no Q: attention cannot be judged from this dump")
    return Inspection("dump", rows, notes, dump.record)


def _packed(packed: Packed) -> Inspection:
    rows = []
    for t in packed.tensors:
        row = _row(t.name, t.types, t.shape, t.stored.entry.nbytes, t.stored.digest)
        bits = t.codecs[0].bits_per_value(t.head_dim)
        rows.append(row | {"values": math.prod(t.shape), "bits_per_value": bits})
    return Inspection("packed cache", rows, _source_notes(packed.source), packed.record)


def _codebook(book: CodebookSet) -> Inspection:
    rows = [
        {
            "tensor": _plain(key),
            "type": f"{table.bits} bits, unit vectors of {table.dim}"
            if table.dim > 1
            else f"{table.bits} bits, unit variance",
            "levels": " ".join(f"{level:.6g}" for level in table.centroids),
            "gaussian_distortion": distortion_on_gaussian(table),
            "digest": f"sha256:{table.sha256}",
        }
        for key, table in book.tables.items()
    ]
    notes = [_plain(f"{key}: {value}") for key, value in book.provenance.items()]
    return Inspection(f"codebook {_plain(book.id)}", rows, notes, dict(book.provenance))


def _row(
    name: str, kind: str, shape: tuple[int, ...], nbytes: int, digest: str | None
) -> dict[str, Any]:
    batch, heads, seq_len, head_dim = shape
    return {
        "tensor": name,
        "type": kind,
        "batch": batch,
        "heads": heads,
        "seq_len": seq_len,
        "head_dim": head_dim,
        "bytes": nbytes,
        "digest": digest,
    }


def _source_notes(source: Mapping[str, Any]) -> list[str]:
    if not source:
        return ["source: unknown (no metadata)"]
    return [
        _plain(f"{key}: {value}") for key, value in source.items() if not isinstance(value, dict)
    ]


def _plain(text: str) -> str:
    """Foreign text for a terminal: control characters and such are shown escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
