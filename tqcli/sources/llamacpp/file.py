"""What a llama.cpp save file says, and where its rows lie.

::

    session   u32 magic | u32 version | u32 n | i32 token[n] | u32 len, architecture | KV
    sequence  u32 magic | u32 version | u32 n | i32 word[n]                          | KV
    KV        u32 streams; per stream: u32 cells (0: nothing more), then
              per cell   i32 pos | u32 n | [M-RoPE: 12 or 8 bytes] | i32 sequence[n]
              u32 v_trans | u32 layers | [session 11, sequence 4: u32 rot_k, u32 rot_v]
              K, per layer  i32 type | u64 row_bytes | cells * row_bytes
              V             the same; or, v_trans = 1:
                            i32 type | u32 element_bytes | u32 n | n rows of `cells` elements
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["session", "sequence"]
Side = Literal["k", "v"]
I32 = NDArray[np.int32]

MAGICS: dict[Kind, int] = {"session": 0x6767736E, "sequence": 0x67677371}
VERSIONS: dict[Kind, tuple[int, ...]] = {"session": (9, 10, 11), "sequence": (2, 3, 4)}
RECORDS_ROTATION: dict[Kind, int] = {"session": 11, "sequence": 4}  # from this version on
CELL_EXTRAS = (0, 12, 8)  # bytes per cell: no M-RoPE; x, y, token; x, y
# llama.cpp's own limits
MAX_SEQUENCES = 256
MAX_LAYERS = 512
MAX_ARCH_BYTES = 256

ROWS_HEADER = 12  # bytes in front of the rows of a layer, transposed or not
_CELL = 8  # bytes of position and number of sequences


@dataclass(frozen=True)
class Rows:
    """Storage of one side of one layer.

    ``columns`` is 0 for rows of cells; a transposed V has ``columns`` rows, each with one element
    of ``row_bytes`` bytes per cell.
    """

    type: int
    row_bytes: int
    columns: int = 0

    def nbytes(self, cells: int) -> int:
        """Bytes of all rows."""
        return cells * self.row_bytes * max(1, self.columns)


@dataclass(frozen=True, eq=False)
class Stream:
    """Cells that share one buffer; a sequence lives in one stream.

    Cell ``c`` belongs to the sequences ``seq_ids[seq_start[c]:seq_start[c + 1]]``; one that
    belongs to none is unused. ``extra`` holds what M-RoPE adds to each cell, int32 of shape
    ``(cells, 0, 2 or 3)``.
    """

    index: int
    positions: I32
    seq_start: I32
    seq_ids: I32
    extra: I32

    @property
    def cells(self) -> int:
        """Number of cells."""
        return len(self.positions)

    def cells_of(self, sequence: int) -> NDArray[np.intp]:
        """Cells of a sequence in the order of their positions."""
        owner = np.repeat(np.arange(self.cells), np.diff(self.seq_start))
        cells = owner[self.seq_ids == sequence]
        order = np.argsort(self.positions[cells], kind="stable")
        return np.asarray(cells[order], np.intp)

    @property
    def nbytes(self) -> int:
        """Bytes of the cells in a file."""
        return _CELL * self.cells + self.extra.nbytes + self.seq_ids.nbytes


@dataclass(frozen=True, eq=False)
class SaveFile:
    """Everything that a save file says but the values, and where their rows are.

    ``words`` are the int32 that stand in front: the tokens of a session file, and of a sequence
    file the tokens or a blob that holds them. ``streams`` are those with cells, of
    ``stream_count``.
    """

    path: Path
    kind: Kind
    version: int
    arch: str | None
    words: I32
    tokens: I32
    media: int
    cell_extra: int
    stream_count: int
    streams: tuple[Stream, ...]
    v_trans: bool
    rotation: tuple[int, int] | None  # of K and V as recorded; None: the version records none
    k: tuple[Rows, ...]
    v: tuple[Rows, ...]

    @property
    def records_rotation(self) -> bool:
        """Whether files of this version say how K and V are rotated."""
        return self.version >= RECORDS_ROTATION[self.kind]

    def sequences(self) -> list[int]:
        """Ids of the sequences that own a cell, ascending."""
        return sorted({int(i) for s in self.streams for i in np.unique(s.seq_ids)})

    def rows(self, side: Side) -> tuple[Rows, ...]:
        """Storage of one side, layer by layer."""
        return self.k if side == "k" else self.v

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._stream_at(self.stream_count)

    def offset(self, stream: Stream, side: Side, layer: int) -> int:
        """Byte at which the rows of a layer start."""
        at = self._stream_at(stream.index) + self._head_bytes(stream)
        if side == "v":
            at += sum(ROWS_HEADER + rows.nbytes(stream.cells) for rows in self.k)
        before = sum(ROWS_HEADER + rows.nbytes(stream.cells) for rows in self.rows(side)[:layer])
        return at + before + ROWS_HEADER

    def _stream_at(self, index: int) -> int:
        """Byte at which the stream of that number starts."""
        arch = 0 if self.arch is None else 4 + len(self.arch)
        at = 12 + self.words.nbytes + arch + 4 + 4 * index
        for stream in self.streams:
            if stream.index < index:
                rows = sum(ROWS_HEADER + r.nbytes(stream.cells) for r in (*self.k, *self.v))
                at += self._head_bytes(stream) - 4 + rows
        return at

    def _head_bytes(self, stream: Stream) -> int:
        """Bytes of a stream with cells in front of its first layer."""
        return 4 + stream.nbytes + 8 + (8 if self.records_rotation else 0)


def runs(values: I32) -> Iterator[tuple[int, int]]:
    """Consecutive runs ``(first, count)`` of ascending values: positions in few words."""
    if values.size == 0:
        return
    breaks = np.flatnonzero(np.diff(values) != 1) + 1
    for part in np.split(values, breaks):
        yield int(part[0]), len(part)
