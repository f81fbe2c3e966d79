"""llama.cpp save files as a source: what a running model had in its cache, without a framework."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.codecs import VectorError
from tqcli.errors import InputError, input_error
from tqcli.sources.base import Named, PackedTensor, SourceInfo, TensorSpec
from tqcli.sources.binary import FieldReader
from tqcli.sources.llamacpp.describe import notes, provenance, token_ids
from tqcli.sources.llamacpp.file import Side
from tqcli.sources.llamacpp.gguf_header import read_header
from tqcli.sources.llamacpp.model import Model, plain_values
from tqcli.sources.llamacpp.parse import read_layout
from tqcli.sources.llamacpp.parts import batch_shape, parts_of
from tqcli.sources.llamacpp.plan import Planner, Rotation, unknown_heads
from tqcli.sources.llamacpp.rows import Plan, read_rows
from tqcli.sources.llamacpp.types import TypeRules

_SIDES: tuple[Side, Side] = ("k", "v")


class LlamaCppSource:
    """K and V of a session, sequence or slot file.

    Parameters
    ----------
    path : path
        What ``llama_state_save_file``, ``llama_state_seq_save_file`` or the server's slot save
        wrote.
    model : path, optional
        The GGUF that ran; its metadata gives heads, head_dim, architecture and RoPE.
    heads, head_dim, head_dim_v, arch : optional
        The same by hand, see :class:`~tqcli.sources.llamacpp.model.Model`.
    sequence : int, optional
        Only this sequence. Without it all come: as a batch if their lengths are equal, else one
        after the other along the token axis.
    fork : str, optional
        Whose numbers the ggml types are, see :mod:`~tqcli.sources.llamacpp.types`.
    layouts : sequence of str
        Which layouts are meant where row sizes leave several.
    rotation : {"auto", "none"} or int
        Hadamard size in front of the stored values of quantized types. ``auto`` takes what the
        file records, or llama.cpp's default where the version is known to leave it out.
    cell_extra : {None, 0, 8, 12}
        Extra bytes per cell that M-RoPE models write; None finds out.

    Raises
    ------
    InputError
        The file is damaged, of an unknown version, or does not fit the model.
    UsageError
        An option is wrong or lacks its partner.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] | None = None,
        heads: int | None = None,
        head_dim: int | None = None,
        head_dim_v: int | None = None,
        arch: str | None = None,
        sequence: int | None = None,
        fork: str | None = None,
        layouts: Sequence[str] = (),
        rotation: Rotation = "auto",
        cell_extra: int | None = None,
    ) -> None:
        header = None if model is None else read_header(model)
        facts = Model(header, heads, head_dim, head_dim_v, arch)
        rules = TypeRules(fork, tuple(layouts))
        if cell_extra is None and header is not None and not header.uses_mrope:
            cell_extra = 0
        self._save = read_layout(path, cell_extra)
        self._planner = Planner(self._save, facts, facts.arch_of(self._save), rules, rotation)
        self._parts = parts_of(self._save, sequence)
        self._layers = facts.layers(self._save) if self._parts else []

    def require_heads(self) -> None:
        """Refuse to go on where nothing says how many heads there are.

        Raises
        ------
        UsageError
        """
        if self._planner.model.is_open:
            raise unknown_heads(self._save.path)

    def describe(self) -> SourceInfo:
        """Tensors, provenance and oddities; the rows are not read.

        Where nothing says how many heads there are, shapes are ``(batch, 1, seq_len, values)``
        and a note says so.
        """
        extras = [TensorSpec(name, ids.shape, "int32") for name, ids in self._extras()]
        specs = extras + [self._spec(*place) for place in self._places()]
        said = list(notes(self._planner, self._parts))
        if specs and self._planner.model.is_open:
            said.append("heads are unknown: give --model FILE.gguf, or --heads and --head-dim")
        record = provenance(self._planner, self._parts, self._layers)
        return SourceInfo(tuple(specs), record, tuple(said))

    def tensors(self) -> Iterator[Named]:
        """Yield ``layers.{i}.k`` and ``.v``, ``(batch, heads, seq_len, head_dim)``, K after RoPE.

        Float types keep their dtype; quantized ones are decoded to float32 and un-rotated. K comes
        in the order that the Hugging Face model has it in. ``token_ids`` (where the file tells
        them) and ``positions``, int32 ``(batch, seq_len)``, come first.
        """
        yield from self._extras()
        for name, where, plan, chunks in self._read():
            batch, seq_len = self._shape()
            out = np.empty((batch, plan.heads, seq_len, plan.head_dim), plan.dtype)
            for row, target, data in chunks:
                try:
                    out[row, :, target] = plan.decode(data)
                except VectorError as error:
                    token, head = divmod(error.vector, plan.heads)
                    place = f"token {target[token]} head {head}"
                    raise InputError(f"{where}: {place}: {error.what}") from error
            yield name, out

    def packed(self) -> Iterator[PackedTensor]:
        """Yield the stored blocks untouched, ``(batch, heads, seq_len, blocks, block_bytes)``.

        K whose halves are interleaved stays so (``k_interleaved`` in the provenance): bytes
        cannot be put in order without decoding them.
        """
        for name, where, plan, chunks in self._read():
            codec = plan.packed_codec(where)
            batch, seq_len = self._shape()
            blocks = plan.codec.blocks_shape(plan.head_dim)
            out = np.empty((batch, plan.heads, seq_len, *blocks), np.uint8)
            for row, target, data in chunks:
                out[row, :, target] = plan.blocks(data)
            yield name, codec, out

    def _places(self) -> Iterator[tuple[Side, int, int]]:
        """Side, index in the file and number in the model of every tensor, in layer order."""
        for index, layer in enumerate(self._layers):
            for side in _SIDES:
                yield side, index, layer

    def _shape(self) -> tuple[int, int]:
        """``(batch, seq_len)``."""
        return batch_shape(self._parts)

    def _extras(self) -> Iterator[Named]:
        if self._parts:
            ids = token_ids(self._save, self._parts)
            if ids is not None:
                yield "token_ids", ids
            positions = np.concatenate([part.positions for part in self._parts])
            yield "positions", positions.reshape(self._shape())

    def _read(
        self,
    ) -> Iterator[tuple[str, str, Plan, Iterator[tuple[int, NDArray[np.intp], Any]]]]:
        """Open the file and go through the tensors; every plan is made before the first read."""
        plans = [(place, self._planner.plan(*place)) for place in self._places()]
        with FieldReader(self._save.path) as reader:
            if reader.size != self._save.size:
                raise input_error(
                    self._save.path,
                    f"{reader.size} bytes; it had {self._save.size}",
                    "the file changed while it was read",
                )
            for (side, index, layer), plan in plans:
                where = self._planner.where(side, layer)
                yield f"layers.{layer}.{side}", where, plan, self._chunks(reader, side, index)

    def _chunks(
        self, reader: FieldReader, side: Side, index: int
    ) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.uint8]]]:
        """Yield batch row, places along the token axis, and the rows of bytes that go there."""
        rows = self._planner.rows(side, index)
        batch, start = self._shape()[0], 0
        for number, part in enumerate(self._parts):
            place = np.full(part.stream.cells, -1, np.intp)
            place[part.cells] = start + np.arange(part.cells.size)
            at = self._save.offset(part.stream, side, index)
            for first, data in read_rows(reader, at, rows, part.stream.cells):
                target = place[first : first + len(data)]
                mine = target >= 0
                yield number if batch > 1 else 0, target[mine], data[mine]
            start += 0 if batch > 1 else part.cells.size

    def _spec(self, side: Side, index: int, layer: int) -> TensorSpec:
        save, planner, name = self._save, self._planner, f"layers.{layer}.{side}"
        rows = planner.rows(side, index)
        nbytes = sum(rows.nbytes(stream.cells) for stream in save.streams)
        if not planner.model.is_open:
            plan = planner.plan(side, index, layer)
            batch, seq_len = self._shape()
            shape = (batch, plan.heads, seq_len, plan.head_dim)
            return TensorSpec(name, shape, plan.dtype.name, plan.codec.id, nbytes)
        stored = planner.rules.name(rows.type)
        values = rows.columns or plain_values(rows.type, rows.row_bytes) or 0
        dtype = {"f16": "float16", "bf16": "bfloat16"}.get(stored, "float32")
        batch, seq_len = self._shape()
        return TensorSpec(name, (batch, 1, seq_len, values), dtype, stored, nbytes)
