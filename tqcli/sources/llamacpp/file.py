"""What a llama.cpp save file says, and where its rows lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ROWS_HEADER = 12  # bytes in front of the rows of a layer, transposed or not

Side = Literal["k", "v"]
I32 = NDArray[np.int32]


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


@dataclass(frozen=True)
class Stream:
    """Cells that share one buffer; a sequence lives in one stream.

    Cell ``c`` belongs to the sequences ``seq_ids[seq_start[c]:seq_start[c + 1]]``; one that
    belongs to none is unused.
    """

    index: int
    positions: I32
    seq_start: I32
    seq_ids: I32
    k_at: int
    v_at: int

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


@dataclass(frozen=True)
class SaveFile:
    """Everything that a save file says, and where its rows are."""

    path: Path
    size: int
    kind: str
    version: int
    arch: str | None
    tokens: I32
    media: int
    cell_extra: int
    streams: tuple[Stream, ...]
    v_trans: bool
    rotation: tuple[int, int] | None  # of K and V as recorded; None: the version records none
    k: tuple[Rows, ...]
    v: tuple[Rows, ...]

    def sequences(self) -> list[int]:
        """Ids of the sequences that own a cell, ascending."""
        return sorted({int(i) for s in self.streams for i in np.unique(s.seq_ids)})

    def offset(self, stream: Stream, side: Side, layer: int) -> int:
        """Byte at which the rows of a layer start."""
        sides, at = (self.k, stream.k_at) if side == "k" else (self.v, stream.v_at)
        before = sum(ROWS_HEADER + rows.nbytes(stream.cells) for rows in sides[:layer])
        return at + before + ROWS_HEADER


def runs(values: I32) -> Iterator[tuple[int, int]]:
    """Consecutive runs ``(first, count)`` of ascending values: positions in few words."""
    if values.size == 0:
        return
    breaks = np.flatnonzero(np.diff(values) != 1) + 1
    for part in np.split(values, breaks):
        yield int(part[0]), len(part)
