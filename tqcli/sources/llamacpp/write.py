"""Write a llama.cpp save file: its header at once, then rows in any order of layers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tqcli.codecs import VectorError
from tqcli.errors import InputError
from tqcli.kv.atomic import replacing, reserve
from tqcli.kv.flusher import Flusher
from tqcli.kv.positional import write_at
from tqcli.sources.llamacpp.file import MAGICS, ROWS_HEADER, Rows, SaveFile, Side, Stream
from tqcli.sources.llamacpp.parse import read_layout
from tqcli.sources.llamacpp.parts import Index, places
from tqcli.sources.llamacpp.rows import Plan
from tqcli.sources.llamacpp.target import Target

_CHUNK_BYTES = 4 << 20  # of values that are encoded at a time
_SIDES: tuple[Side, Side] = ("k", "v")


class SaveFileWriter:
    """One save file, written whole or not at all.

    Memory stays bounded by one side of one layer. At the end the file is read back: one that tq
    would not read takes nobody's place.

    Parameters
    ----------
    path : path
    target : Target
        What the file says, and how each tensor is stored in it.
    force : bool
        Replace an existing file.
    """

    def __init__(self, path: Path, target: Target, *, force: bool = False) -> None:
        self.path, self._target, self._force = path, target, force
        self._left = {(side, i) for side in _SIDES for i in range(len(target.save.k))}

    def __enter__(self) -> SaveFileWriter:
        """Open the temporary file and write everything but the rows."""
        save = self._target.save
        with ExitStack() as stack:
            self._file: IO[bytes] = stack.enter_context(replacing(self.path, force=self._force))
            self._flusher = stack.enter_context(Flusher(self._file))
            reserve(self._file, save.size)
            head = _head(save)
            self._put(0, head)
            at, streams = len(head), {stream.index: stream for stream in save.streams}
            for index in range(save.stream_count):
                at = self._write_stream_head(at, streams.get(index))
            self._stack = stack.pop_all()
        return self

    def _put(self, at: int, data: bytes) -> None:
        write_at(self._file, memoryview(data), at)

    def _write_stream_head(self, at: int, stream: Stream | None) -> int:
        """The cells of a stream and the headers of its rows; where the next stream starts."""
        save = self._target.save
        if stream is None:
            self._put(at, struct.pack("<I", 0))
            return at + 4
        head = _cells(stream) + struct.pack("<II", save.v_trans, len(save.k))
        if save.rotation is not None:
            head += struct.pack("<II", *save.rotation)
        self._put(at, head)
        for side in _SIDES:
            for index, rows in enumerate(save.rows(side)):
                at = save.offset(stream, side, index)
                self._put(at - ROWS_HEADER, _rows_head(rows))
                at += rows.nbytes(stream.cells)
        return at

    def write(self, side: Side, index: int, values: NDArray[Any]) -> int:
        """Encode and write one tensor.

        Parameters
        ----------
        side : {"k", "v"}
        index : int
            Which of the file's layers.
        values : float array, shape (batch, heads, seq_len, head_dim)
            K after RoPE, in the model's own order of the values of a head.

        Returns
        -------
        int
            Bytes written.

        Raises
        ------
        InputError
            The shape is another than was announced, or a value cannot be stored.
        """
        target, where = self._target, f"{self.path}: layer {index} {side}"
        plan = target.plans[side][index]
        batch, tokens = target.batch_shape
        if values.shape != (batch, plan.heads, tokens, plan.head_dim):
            raise InputError(
                f"{where}: {values.shape}; {(batch, plan.heads, tokens, plan.head_dim)} was "
                "announced"
            )
        if (side, index) not in self._left:
            raise InputError(f"{where}: comes twice")
        self._left.remove((side, index))
        written = 0
        for stream in target.save.streams:
            rows, at = target.save.rows(side)[index], target.save.offset(stream, side, index)
            found = places(target.parts, stream)
            try:
                encoded = _encoded(plan, values, found)
                for part in [_transposed(rows, encoded)] if rows.columns else encoded:
                    write_at(self._file, part.reshape(-1).data, at)
                    self._flusher.wrote(part.nbytes)
                    at += part.nbytes
            except VectorError as error:
                cell, head = divmod(error.vector, plan.heads)
                raise InputError(f"{where}: cell {cell} head {head}: {error.what}") from error
            written += rows.nbytes(stream.cells)
        return written

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Read the layout back and put the file in its place; on an error, leave nothing."""
        if error is not None:
            return self._stack.__exit__(kind, error, trace)
        with self._stack:
            if self._left:
                side, index = min(self._left)
                raise InputError(f"{self.path}: layer {index} {side} was never written")
            save = self._target.save
            again = read_layout(self._file.name, save.cell_extra)
            if (again.size, again.k, again.v) != (save.size, save.k, save.v):
                raise InputError(f"{self.path}: the file does not read back as it was meant")
        return None


def _head(save: SaveFile) -> bytes:
    """Everything in front of the first stream."""
    out = struct.pack("<III", MAGICS[save.kind], save.version, len(save.words))
    out += np.ascontiguousarray(save.words, "<i4").tobytes()
    if save.arch is not None:
        out += struct.pack("<I", len(save.arch)) + save.arch.encode("ascii")
    return out + struct.pack("<I", save.stream_count)


def _cells(stream: Stream) -> bytes:
    out = [struct.pack("<I", stream.cells)]
    ends = stream.seq_start
    for cell in range(stream.cells):
        owners = stream.seq_ids[ends[cell] : ends[cell + 1]]
        out.append(struct.pack("<iI", stream.positions[cell], len(owners)))
        out.append(stream.extra[cell].astype("<i4").tobytes())
        out.append(owners.astype("<i4").tobytes())
    return b"".join(out)


def _rows_head(rows: Rows) -> bytes:
    if rows.columns:
        return struct.pack("<iII", rows.type, rows.row_bytes, rows.columns)
    return struct.pack("<iQ", rows.type, rows.row_bytes)


def _encoded(
    plan: Plan, values: NDArray[Any], places: tuple[Index, Index]
) -> Iterator[NDArray[np.uint8]]:
    """Yield rows ``(n, row_bytes)``, cell after cell."""
    batch, tokens = places
    step = max(1, _CHUNK_BYTES // (values.shape[1] * values.shape[3] * values.itemsize))
    for first in range(0, len(tokens), step):
        some, rows = tokens[first : first + step], batch[first : first + step]
        if rows[0] == rows[-1] and (np.diff(some) == 1).all():  # a view, where cells are in order
            chunk = values[rows[0], :, some[0] : some[-1] + 1].swapaxes(0, 1)
        else:
            chunk = values[rows, :, some]
        try:
            yield plan.encode(chunk)
        except VectorError as error:
            vector = error.vector + first * plan.heads
            raise VectorError(vector, error.dim, error.what) from error


def _transposed(rows: Rows, encoded: Iterator[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Rows of one element a cell: the whole side of a layer, turned."""
    data = np.concatenate(list(encoded))
    elements = data.reshape(len(data), rows.columns, rows.row_bytes)
    return np.ascontiguousarray(elements.swapaxes(0, 1))
