"""The sequences of a save file, and where each of their cells stands in a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import UsageError, input_error
from tqcli.sources.llamacpp.file import SaveFile, Stream

Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Part:
    """A sequence: its cells, in the order of their positions, and the stream that they are in."""

    stream: Stream
    sequence: int
    cells: Index

    @property
    def positions(self) -> NDArray[np.int32]:
        """Position of each token."""
        return self.stream.positions[self.cells]


def parts_of(save: SaveFile, sequence: int | None = None) -> tuple[Part, ...]:
    """All sequences of a file, or one of them.

    Raises
    ------
    UsageError
        There is no such sequence.
    InputError
        A sequence lies in several streams, or has a position twice.
    """
    present = save.sequences()
    if sequence is not None and sequence not in present:
        legal = ", ".join(map(str, present)) or "none"
        raise UsageError(f"{save.path}: no sequence {sequence}; it holds: {legal}")
    return tuple(_part(save, s) for s in (present if sequence is None else [sequence]))


def _part(save: SaveFile, sequence: int) -> Part:
    streams = [stream for stream in save.streams if sequence in stream.seq_ids]
    if len(streams) != 1:
        raise input_error(
            save.path, f"sequence {sequence} in {len(streams)} streams", "one is legal"
        )
    part = Part(streams[0], sequence, streams[0].cells_of(sequence))
    repeated = np.flatnonzero(np.diff(part.positions) == 0)
    if repeated.size and not save.cell_extra:
        raise input_error(
            save.path,
            f"sequence {sequence} has position {part.positions[repeated[0]]} twice",
            "positions are unique",
        )
    return part


def batch_shape(parts: Sequence[Part]) -> tuple[int, int]:
    """``(batch, seq_len)`` of the tensors: sequences of one length are rows of a batch.

    Others follow each other along the token axis.
    """
    lengths = [part.cells.size for part in parts]
    return (len(lengths), lengths[0]) if len(set(lengths)) == 1 else (1, sum(lengths))


def places(parts: Sequence[Part], stream: Stream) -> tuple[Index, Index]:
    """Where the tensors hold each cell of a stream: batch row and token, each ``(cells,)``.

    A cell of several sequences stands there several times, all alike; the first is named. One of
    no sequence has -1.
    """
    rows, tokens = (np.full(stream.cells, -1, np.intp) for _ in range(2))
    batch, _ = batch_shape(parts)
    starts = np.cumsum([0] + [0 if batch > 1 else part.cells.size for part in parts])
    for number, part in reversed(list(enumerate(parts))):
        if part.stream is stream:
            rows[part.cells] = number if batch > 1 else 0
            tokens[part.cells] = starts[number] + np.arange(part.cells.size)
    return rows, tokens
