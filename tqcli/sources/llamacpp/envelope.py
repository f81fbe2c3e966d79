"""A save file without its values, as JSON: all that is needed to write it again.

::

    kind           "sequence" or "session"
    version, arch
    words          the numbers in front
    cell_extra     bytes that M-RoPE adds to a cell: 0, 8, 12
    stream_count
    streams        those with cells: {"index", "cells", "extra"}; cells are runs of ascending
                   positions in the same sequences: first position, count, n, n sequences
    v_transposed
    rotation       [size of K, of V] as recorded, or null
    k, v           runs of layers stored alike: [layers, ggml type, row bytes, columns]

words, cells and extra are base64 of int32: a long context would make very long JSON otherwise.
Cells of no sequence are left out, as their values are.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError, input_error
from tqcli.sources.llamacpp.file import (
    CELL_EXTRAS,
    I32,
    MAX_ARCH_BYTES,
    MAX_LAYERS,
    MAX_SEQUENCES,
    RECORDS_ROTATION,
    VERSIONS,
    Rows,
    SaveFile,
    Stream,
)
from tqcli.sources.llamacpp.parts import Part
from tqcli.sources.llamacpp.tokens import unpack_tokens

_MAX = 2**31 - 1
_MAX_ROW_BYTES = 1 << 26  # far beyond any model's
_MAX_COLUMNS = 1 << 24


def to_json(save: SaveFile, parts: Sequence[Part]) -> dict[str, Any]:
    """The envelope of some sequences of a file."""
    chosen = {part.sequence for part in parts}
    kept = [s for s in (_only(stream, chosen) for stream in save.streams) if s.cells]
    return {
        "kind": save.kind,
        "version": save.version,
        "arch": save.arch,
        "words": _text(save.words),
        "cell_extra": save.cell_extra,
        "stream_count": save.stream_count,
        "streams": [
            {"index": s.index, "cells": _text(_runs(s)), "extra": _text(s.extra)} for s in kept
        ],
        "v_transposed": save.v_trans,
        "rotation": None if save.rotation is None else list(save.rotation),
        "k": _layers(save.k),
        "v": _layers(save.v),
    }


def _only(stream: Stream, chosen: set[int]) -> Stream:
    """The cells of some sequences, and of these sequences alone."""
    wanted = np.isin(stream.seq_ids, list(chosen))
    owner = np.repeat(np.arange(stream.cells), np.diff(stream.seq_start))[wanted]
    counts = np.bincount(owner, minlength=stream.cells)
    cells = counts > 0
    start = np.concatenate([[0], np.cumsum(counts[cells])]).astype(np.int32)
    ids = stream.seq_ids[wanted]
    return Stream(stream.index, stream.positions[cells], start, ids, stream.extra[cells])


def _runs(stream: Stream) -> I32:
    owners = np.split(stream.seq_ids, stream.seq_start[1:-1])
    found: list[list[int]] = []
    last: list[int] = []
    for position, ids in zip(stream.positions.tolist(), owners, strict=True):
        if ids.tolist() == last and found[-1][0] + found[-1][1] == position:
            found[-1][1] += 1
        else:
            last = ids.tolist()
            found.append([position, 1, len(last), *last])
    return np.array([number for run in found for number in run], np.int32)


def _layers(side: Sequence[Rows]) -> list[list[int]]:
    return [
        [len(list(alike)), rows.type, rows.row_bytes, rows.columns] for rows, alike in groupby(side)
    ]


def _text(words: NDArray[np.int32]) -> str:
    return base64.b64encode(np.ascontiguousarray(words, "<i4").tobytes()).decode("ascii")


def from_json(record: object, path: Path, tokens: int) -> SaveFile:
    """The save file that an envelope describes.

    Parameters
    ----------
    record : object
        What a file's metadata holds; nothing is trusted.
    path : path
        Where the record comes from, for messages.
    tokens : int
        Tokens of all sequences in the tensors beside it: a cell counts once for each of its.

    Raises
    ------
    InputError
        A field is missing or means nothing; the message names it.
    """
    if not isinstance(record, dict):
        raise input_error(path, "an envelope that is no JSON object", "one is expected")
    return _Reading(record, path).save(tokens)


class _Reading:
    """One envelope while its fields are checked."""

    def __init__(self, record: dict[str, Any], path: Path) -> None:
        self.record, self.path = record, path

    def save(self, tokens: int) -> SaveFile:
        kind = self.one_of("kind", tuple(VERSIONS))
        version = self.one_of("version", VERSIONS[kind])
        words = self.words("words", self.record.get("words"))
        ids, media = unpack_tokens(words, self.error) if kind == "sequence" else (words, 0)
        extra = self.one_of("cell_extra", CELL_EXTRAS)
        count = self.number("stream_count", self.record.get("stream_count"), 1, MAX_SEQUENCES)
        v_trans = self.one_of("v_transposed", (False, True))
        k, v = self.layers("k", False), self.layers("v", v_trans)
        if len(k) != len(v):
            self.fail("v", f"{len(k)} layers are expected")
        return SaveFile(
            path=self.path,
            kind=kind,
            version=version,
            arch=self.arch(kind),
            words=words,
            tokens=ids,
            media=media,
            cell_extra=extra,
            stream_count=count,
            streams=self.streams(count, extra, tokens),
            v_trans=v_trans,
            rotation=self.rotation(version >= RECORDS_ROTATION[kind]),
            k=k,
            v=v,
        )

    def error(self, came: str, legal: str) -> InputError:
        return input_error(self.path, f"envelope: {came}", legal)

    def fail(self, field: str, legal: str) -> NoReturn:
        raise self.error(f"no usable {field!r}", legal)

    def one_of(self, field: str, legal: Sequence[Any]) -> Any:
        value = self.record.get(field)
        if not any(type(value) is type(one) and value == one for one in legal):
            self.fail(field, f"one of {', '.join(map(str, legal))} is expected")
        return value

    def number(self, field: str, value: object, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(field, f"a number from {low} to {high} is expected")
        return value

    def items(self, field: str, value: object, length: int | None = None) -> list[Any]:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            self.fail(field, "a list" + (f" of {length}" if length else "") + " is expected")
        return value

    def words(self, field: str, value: object) -> I32:
        try:
            if not isinstance(value, str):
                raise ValueError
            data = base64.b64decode(value, validate=True)
            return np.frombuffer(data, "<i4")
        except (ValueError, binascii.Error):
            self.fail(field, "base64 of int32 is expected")

    def arch(self, kind: str) -> str | None:
        arch = self.record.get("arch")
        if kind == "sequence":
            return None
        if not isinstance(arch, str) or not (arch.isascii() and arch.isprintable()):
            self.fail("arch", "a printable name is expected")
        if len(arch) > MAX_ARCH_BYTES:
            self.fail("arch", f"at most {MAX_ARCH_BYTES} letters are expected")
        return arch

    def rotation(self, recorded: bool) -> tuple[int, int] | None:
        value = self.record.get("rotation")
        if value is None and not recorded:
            return None
        if not recorded:
            self.fail("rotation", "this version records none")
        k, v = (
            self.number("rotation", size, 0, 1 << 20) for size in self.items("rotation", value, 2)
        )
        if any(size == 1 or size & (size - 1) for size in (k, v)):
            self.fail("rotation", "0 or powers of two are expected")
        return k, v

    def layers(self, side: str, transposed: bool) -> tuple[Rows, ...]:
        found: list[Rows] = []
        for run in self.items(side, self.record.get(side)):
            layers, kind, size, columns = self.items(side, run, 4)
            count = self.number(f"{side}: layers", layers, 1, MAX_LAYERS - len(found))
            rows = Rows(
                self.number(f"{side}: type", kind, 0, _MAX),
                self.number(f"{side}: row bytes", size, 1, _MAX_ROW_BYTES),
                self.number(f"{side}: columns", columns, transposed, transposed * _MAX_COLUMNS),
            )
            found += [rows] * count
        return tuple(found)

    def streams(self, count: int, extra: int, tokens: int) -> tuple[Stream, ...]:
        found: list[Stream] = []
        for record in self.items("streams", self.record.get("streams")):
            if not isinstance(record, dict):
                self.fail("streams", "objects are expected")
            low = found[-1].index + 1 if found else 0
            index = self.number("streams: index", record.get("index"), low, count - 1)
            found.append(self.cells(index, record, extra, tokens))
            tokens -= found[-1].seq_ids.size
        return tuple(found)

    def cells(self, index: int, record: dict[str, Any], extra: int, tokens: int) -> Stream:
        positions, owners = [], []
        numbers = self.words("cells", record.get("cells")).tolist()
        at, left = 0, tokens
        while at < len(numbers):
            first, count, owning = (*numbers[at : at + 3], 0, 0)[:3]
            self.number("cells: number of sequences", owning, 1, MAX_SEQUENCES)
            self.number("cells: count", count, 1, left // owning)
            self.number("cells: position", first, 0, _MAX - count)
            ids = self.items("cells: sequences", numbers[at + 3 : at + 3 + owning], owning)
            for each in ids:
                self.number("cells: sequence", each, 0, MAX_SEQUENCES - 1)
            positions.append(np.arange(first, first + count, dtype=np.int32))
            owners += [ids] * count
            at += 3 + owning
            left -= count * owning
        if not positions:
            self.fail("cells", "a stream that is listed has cells")
        cells = sum(map(len, positions))
        words = self.words("extra", record.get("extra"))
        if words.size != cells * (extra // 4):
            self.fail("extra", f"{extra} bytes for each of {cells} cells are expected")
        return Stream(
            index,
            np.concatenate(positions),
            np.cumsum([0, *map(len, owners)], dtype=np.int32),
            np.array([each for ids in owners for each in ids], np.int32),
            words.reshape(cells, extra // 4),
        )
