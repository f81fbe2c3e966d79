"""Between the bytes of a save file's rows and K and V as the model computed them.

Between the two stand, from the outside in: the ggml type, the Hadamard rotation that llama.cpp
puts in front of quantized caches, and the order in which a llama-architecture GGUF keeps the
values of a K head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli import rotation
from tqcli.codecs import Codec
from tqcli.codecs.plain import DTYPES
from tqcli.errors import input_error
from tqcli.sources.binary import FieldReader
from tqcli.sources.llamacpp.file import Rows
from tqcli.sources.llamacpp.types import FLOAT_TYPES, GGML_TYPES

_CHUNK_BYTES = 1 << 20  # rows are read in pieces of about this size


@dataclass(frozen=True)
class Plan:
    """How one side of one layer is stored.

    Parameters
    ----------
    codec : Codec
        Of the stored bytes, the rotation not counted.
    heads, head_dim : int
    rotation : int
        Size of the Hadamard rotation between the values and the codec; 0 for none.
    interleaved : bool
        Whether the halves of each head are interleaved.
    """

    codec: Codec
    heads: int
    head_dim: int
    rotation: int
    interleaved: bool

    @property
    def stored_dtype(self) -> np.dtype[Any] | None:
        """Dtype of the stored numbers; None where they are coded."""
        return DTYPES[self.codec.id] if self.codec.id in FLOAT_TYPES else None

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the values come as: the file's own float type, or float32 if they were coded."""
        stored = self.stored_dtype
        return np.dtype(np.float32) if stored is None or self.rotation else stored

    def packed_codec(self, where: str) -> str:
        """Codec id of the stored bytes, the rotation included.

        Raises
        ------
        InputError
            No id describes a rotation in front of this type.
        """
        if not self.rotation:
            return self.codec.id
        if self.codec.id not in GGML_TYPES.values() or self.stored_dtype is not None:
            raise input_error(
                where,
                f"{self.codec.id} behind a Hadamard rotation of {self.rotation}",
                "no codec id says that",
                "decode it instead",
            )
        return f"{self.codec.id}+rot{self.rotation}"

    def decode(self, data: NDArray[np.uint8]) -> NDArray[Any]:
        """Decode rows ``(n, row_bytes)`` to ``(n, heads, head_dim)`` of :attr:`dtype`."""
        stored = self.stored_dtype
        if stored is None:
            return self.restore(self.codec.decode(self.blocks(data), self.head_dim))
        return self.restore(data.view(stored).reshape(len(data), self.heads, self.head_dim))

    def restore(self, values: NDArray[Any]) -> NDArray[Any]:
        """Undo rotation and interleaving of ``(..., head_dim)``."""
        if self.rotation:
            with np.errstate(all="ignore"):  # NaN and Inf pass through; who writes them out decides
                values = rotation.hadamard(values.astype(np.float32), self.rotation)
        return deinterleave(values) if self.interleaved else values

    def encode(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Inverse of :meth:`decode`: ``(n, heads, head_dim)`` to rows ``(n, row_bytes)``.

        Raises
        ------
        VectorError
            A value is not finite, or beyond what the type holds.
        """
        if self.interleaved:
            values = interleave(values)
        if self.rotation:
            with np.errstate(all="ignore"):  # NaN and Inf pass through; the codec names them
                values = rotation.hadamard(values.astype(np.float32), self.rotation)
        return self.codec.encode(values).reshape(len(values), -1)

    def blocks(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Blocks ``(n, heads, blocks_per_vector, block_bytes)`` of rows, a view."""
        return data.reshape(len(data), self.heads, *self.codec.blocks_shape(self.head_dim))


def read_rows(
    reader: FieldReader, at: int, rows: Rows, cells: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield ``(first cell, bytes)``, bytes of shape ``(n, row_bytes)``, cell after cell.

    A transposed V is turned; it is read as a whole.
    """
    reader.seek(at)
    if rows.columns:
        data = reader.array(np.uint8, rows.nbytes(cells), "rows")
        turned = data.reshape(rows.columns, cells, rows.row_bytes).swapaxes(0, 1)
        yield 0, np.ascontiguousarray(turned).reshape(cells, -1)
        return
    step = max(1, _CHUNK_BYTES // rows.row_bytes)
    for first in range(0, cells, step):
        count = min(step, cells - first)
        data = reader.array(np.uint8, count * rows.row_bytes, "rows")
        yield first, data.reshape(count, rows.row_bytes)


def deinterleave(x: NDArray[Any]) -> NDArray[Any]:
    """Put heads whose halves were interleaved back in order.

    Stored value ``2j`` is value ``j`` of the head, stored value ``2j + 1`` is ``j + head_dim/2``.

    Examples
    --------
    >>> deinterleave(np.array([0, 2, 1, 3]))
    array([0, 1, 2, 3])
    """
    return np.concatenate([x[..., 0::2], x[..., 1::2]], axis=-1)


def interleave(x: NDArray[Any]) -> NDArray[Any]:
    """Inverse of :func:`deinterleave`.

    Examples
    --------
    >>> interleave(np.array([0, 1, 2, 3]))
    array([0, 2, 1, 3])
    """
    half = x.shape[-1] // 2
    out = np.empty_like(x)
    out[..., 0::2], out[..., 1::2] = x[..., :half], x[..., half:]
    return out
