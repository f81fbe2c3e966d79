"""Reading a llama.cpp save file: session (``ggsn``), sequence or slot (``ggsq``).

The layout is drawn in :mod:`~tqcli.sources.llamacpp.file`. No row is touched. Whether the model
uses M-RoPE is not recorded, so cells are tried without and with its extra bytes until one reading
ends exactly at the end of the file.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tqcli.errors import InputError, input_error
from tqcli.sources.binary import FieldReader
from tqcli.sources.llamacpp.file import (
    CELL_EXTRAS,
    MAGICS,
    MAX_ARCH_BYTES,
    MAX_LAYERS,
    MAX_SEQUENCES,
    RECORDS_ROTATION,
    VERSIONS,
    Kind,
    Rows,
    SaveFile,
    Stream,
)
from tqcli.sources.llamacpp.tokens import unpack_tokens

_KINDS: dict[int, Kind] = {magic: kind for kind, magic in MAGICS.items()}
_CELL = struct.Struct("<iI")


def read_layout(path: str | os.PathLike[str], cell_extra: int | None = None) -> SaveFile:
    """Read everything but the rows.

    Parameters
    ----------
    path : path
    cell_extra : {None, 0, 8, 12}
        Extra bytes per cell that M-RoPE models write; None finds out.

    Raises
    ------
    InputError
        Not a save file, an unknown version, or a file that ends early or late; the message names
        the field and the byte.
    """
    with FieldReader(path) as reader:
        magic = reader.u32("magic")
        if magic not in _KINDS:
            raise input_error(
                reader.path,
                f"starts with {magic:#010x}",
                "llama.cpp save files start with 'ggsn' (session) or 'ggsq' (sequence, slot)",
            )
        kind, version = _KINDS[magic], reader.u32("version")
        if version not in VERSIONS[kind]:
            raise input_error(
                reader.path,
                f"{kind} file of version {version}",
                f"known: {', '.join(map(str, VERSIONS[kind]))}",
            )
        words = reader.array("<i4", reader.u32("token count"), "tokens")
        tokens, media = unpack_tokens(words, reader.fail) if kind == "sequence" else (words, 0)
        arch = _arch(reader) if kind == "session" else None
        recorded = version >= RECORDS_ROTATION[kind]
        extras = CELL_EXTRAS if cell_extra is None else (cell_extra,)
        extra, cache = _first_that_fits(reader, extras, recorded)
        return SaveFile(
            path=reader.path,
            kind=kind,
            version=version,
            arch=arch,
            words=words,
            tokens=tokens,
            media=media,
            cell_extra=extra,
            stream_count=cache.stream_count,
            streams=tuple(cache.streams),
            v_trans=cache.v_trans,
            rotation=cache.rotation,
            k=tuple(cache.k),
            v=tuple(cache.v),
        )


def _arch(reader: FieldReader) -> str:
    length = reader.u32("architecture length")
    if length > MAX_ARCH_BYTES:
        raise reader.fail(f"architecture of {length} bytes", f"at most {MAX_ARCH_BYTES}")
    text = reader.raw(length, "architecture")
    if not text.isascii() or not text.decode("ascii", "replace").isprintable():
        raise reader.fail(f"architecture {text[:32]!r}", "a printable name is expected")
    return text.decode("ascii")


@dataclass
class _Cache:
    """The KV part while it is read; the first stream that has cells sets what all must share.

    ``fields`` counts what was read without contradiction: blocks of cells and layers.
    """

    stream_count: int = 0
    streams: list[Stream] = field(default_factory=list)
    v_trans: bool = False
    rotation: tuple[int, int] | None = None
    k: tuple[Rows, ...] = ()
    v: tuple[Rows, ...] = ()
    fields: int = 0


def _first_that_fits(
    reader: FieldReader, extras: Sequence[int], recorded: bool
) -> tuple[int, _Cache]:
    """Read the KV part with each cell size in turn; the error of the one that got farthest."""
    start = reader.at
    problems: list[tuple[int, InputError]] = []
    for extra in extras:
        reader.seek(start)
        cache = _Cache()
        try:
            _read_cache(reader, cache, extra, recorded)
        except InputError as error:
            problems.append((cache.fields, error))
        else:
            return extra, cache
    raise max(problems, key=lambda problem: problem[0])[1]


def _read_cache(reader: FieldReader, cache: _Cache, extra: int, recorded: bool) -> None:
    count = reader.u32("stream count")
    if not 1 <= count <= MAX_SEQUENCES:
        raise reader.fail(f"{count} streams", f"1 to {MAX_SEQUENCES} are possible")
    reader.need(4 * count, f"{count} streams")
    cache.stream_count = count
    for index in range(count):
        cells = reader.u32("cell count")
        if cells == 0:
            continue
        stream = _read_cells(reader, index, cells, extra)
        cache.fields += 1
        first = not cache.streams
        v_trans, layers, rotation = _read_flags(reader, recorded)
        k = _read_side(reader, cache, cells, layers, "K", False)
        v = _read_side(reader, cache, cells, layers, "V", v_trans)
        if first:
            cache.v_trans, cache.rotation, cache.k, cache.v = v_trans, rotation, k, v
        elif (v_trans, rotation, k, v) != (cache.v_trans, cache.rotation, cache.k, cache.v):
            raise reader.fail(
                f"stream {index} is laid out unlike the streams before it", "all are alike"
            )
        cache.streams.append(stream)
    if reader.left:
        raise reader.fail(
            f"{reader.left} bytes after the last row",
            "none is expected",
            "sliding-window and hybrid models append a second cache, which is not supported",
        )


def _read_cells(reader: FieldReader, index: int, cells: int, extra: int) -> Stream:
    reader.need(cells * (_CELL.size + extra), f"{cells} cells")
    positions = np.empty(cells, np.int32)
    seq_start = np.zeros(cells + 1, np.int32)
    extras = np.empty((cells, extra // 4), "<i4")
    seq_ids = array("i")
    for cell in range(cells):
        record = reader.raw(_CELL.size + extra, f"cell {cell}")
        position, count = _CELL.unpack_from(record)
        if count > MAX_SEQUENCES:
            raise reader.fail(f"cell {cell} in {count} sequences", f"at most {MAX_SEQUENCES}")
        if count and position < 0:
            raise reader.fail(f"cell {cell} at position {position}", "positions start at 0")
        owners = struct.unpack(f"<{count}i", reader.raw(4 * count, f"sequences of cell {cell}"))
        if any(not 0 <= owner < MAX_SEQUENCES for owner in owners):
            raise reader.fail(
                f"cell {cell} in sequences {owners[:4]}", f"legal: 0 to {MAX_SEQUENCES - 1}"
            )
        seq_ids.extend(owners)
        positions[cell] = position
        seq_start[cell + 1] = len(seq_ids)
        if extra:
            extras[cell] = np.frombuffer(record, "<i4", offset=_CELL.size)
    return Stream(index, positions, seq_start, np.frombuffer(seq_ids, np.int32), extras)


def _read_flags(reader: FieldReader, recorded: bool) -> tuple[bool, int, tuple[int, int] | None]:
    v_trans = reader.u32("v_trans")
    if v_trans > 1:
        raise reader.fail(f"v_trans {v_trans}", "legal: 0, 1")
    layers = reader.u32("layer count")
    if not 1 <= layers <= MAX_LAYERS:
        raise reader.fail(f"{layers} layers", f"1 to {MAX_LAYERS} are possible")
    if not recorded:
        return bool(v_trans), layers, None
    rotation = reader.u32("K rotation"), reader.u32("V rotation")
    for size in rotation:
        if size & (size - 1) or size == 1:
            raise reader.fail(f"rotation of size {size}", "legal: 0 or a power of two")
    return bool(v_trans), layers, rotation


def _read_side(
    reader: FieldReader, cache: _Cache, cells: int, layers: int, side: str, transposed: bool
) -> tuple[Rows, ...]:
    """Step over K or V of all layers; how each layer is stored."""
    found = []
    for layer in range(layers):
        name = f"layer {layer} {side}"
        kind = reader.i32(f"{name} type")
        if transposed:
            size = reader.u32(f"{name} element size")
            rows = Rows(kind, size, reader.u32(f"{name} row count"))
        else:
            rows = Rows(kind, reader.u64(f"{name} row size"))
        if rows.row_bytes == 0 or (transposed and rows.columns == 0):
            raise reader.fail(f"{name} has rows of 0 bytes", "rows hold values")
        reader.skip(rows.nbytes(cells), f"{name} rows")
        found.append(rows)
        cache.fields += 1
    return tuple(found)
