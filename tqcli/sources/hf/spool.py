"""K, V and Q on their way through a model, kept on disk instead of in memory.

A prefill of many tokens fills the whole cache before its first tensor is complete. Here every
layer appends what it computes to a scratch file and gives attention back what it needs, so that
memory holds the model, one layer's K and V and one chunk of activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_COPY_ROWS = 1024  # tokens converted at once when a tensor is handed out


@dataclass(frozen=True)
class RowLayout:
    """What one token takes in a spool file: ``(heads, dim)`` values of ``dtype``."""

    heads: int
    dim: int
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of one token."""
        return self.heads * self.dim * NUMPY_DTYPES[self.dtype].itemsize


class Spool:
    """One side of one layer: tokens in the order they were computed, ``(rows, heads, dim)``."""

    def __init__(self, path: Path, layout: RowLayout | None = None, rows: int = 0) -> None:
        self.path = path
        self.layout = layout
        self.rows = rows

    def append(self, states: Any, who: str) -> None:
        """Add a torch tensor of shape ``(1, heads, tokens, dim)``."""
        if states.ndim != 4 or states.shape[0] != 1:
            raise InputError(
                f"{who}: cached states of shape {tuple(states.shape)};"
                " legal is (1, num_kv_heads, tokens, head_dim)"
            )
        dtype = str(states.dtype).removeprefix("torch.")
        layout = RowLayout(int(states.shape[1]), int(states.shape[3]), dtype)
        if dtype not in NUMPY_DTYPES or layout != (self.layout or layout):
            raise InputError(f"{who}: {layout} after {self.layout}; legal is one float layout")
        self.layout = layout
        rows = states.detach().squeeze(0).transpose(0, 1).contiguous().cpu()
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.seek(self.rows * layout.nbytes)  # what an interrupted run left behind is replaced
            file.write(_as_numpy(rows).tobytes())
        self.rows += int(rows.shape[0])

    def read(self, first: int, last: int) -> NDArray[Any]:
        """Rows ``first`` to ``last`` (exclusive), shape ``(last - first, heads, dim)``."""
        if self.layout is None:
            raise InputError(f"{self.path.name}: nothing was written")
        row, dtype = self.layout, NUMPY_DTYPES[self.layout.dtype]
        shape = (last - first, row.heads, row.dim)
        data = np.fromfile(
            self.path, np.uint8, (last - first) * row.nbytes, offset=first * row.nbytes
        )
        return data.view(dtype).reshape(shape)


class SpooledLayer:
    """A cache layer whose keys and values live in two spools.

    Mixed in front of a transformers layer class by :func:`spooled`, which keeps that class's rules
    for masks and recurrent state.
    """

    spool_k: Spool
    spool_v: Spool
    window: int | None  # tokens that a sliding layer sees, its own included
    start: int  # row at which the current sequence begins
    name: str

    def attach(self, name: str, spool_k: Spool, spool_v: Spool, start: int) -> None:
        """Say where this layer's rows go and where its sequence begins."""
        self.name, self.spool_k, self.spool_v, self.start = name, spool_k, spool_v, start
        self.window = getattr(self, "sliding_window", None)
        if self.window is not None:
            self.cumulative_length = self.get_seq_length()

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Append the new tokens; return all that this layer's mask counts on."""
        before = self.get_seq_length()
        self.spool_k.append(key_states, self.name)
        self.spool_v.append(value_states, self.name)
        if self.window is None:
            seen = before
        else:
            self.cumulative_length = self.get_seq_length()
            seen = min(before, self.window - 1)
        if seen == 0:
            return key_states, value_states
        first, last = self.spool_k.rows - key_states.shape[2] - seen, self.spool_k.rows
        return (
            _as_torch(self.spool_k.read(first, last), key_states),
            _as_torch(self.spool_v.read(first, last), value_states),
        )

    def get_seq_length(self) -> int:
        """Tokens of the current sequence."""
        return self.spool_k.rows - self.start


def spooled(layer: Any) -> SpooledLayer:
    """The same cache layer, spooling: its class with :class:`SpooledLayer` in front, its state."""
    base = type(layer)
    new: SpooledLayer = object.__new__(type(f"Spooled{base.__name__}", (SpooledLayer, base), {}))
    vars(new).update(vars(layer))
    return new


def hand_out(spool: Spool, lengths: tuple[int, ...], dtype: str, name: str) -> NDArray[Any]:
    """One whole tensor, ``(batch, heads, seq_len, dim)``, converted to ``dtype``.

    Sequences of equal length are stacked along the batch axis; others follow each other along
    the token axis of a batch of one.

    Raises
    ------
    InputError
        A finite value that ``dtype`` cannot hold.
    """
    layout = spool.layout
    if layout is None:
        raise InputError(f"{name}: nothing was written")
    batch, seq_len = packed_shape(lengths)
    out = np.empty((batch, layout.heads, seq_len, layout.dim), NUMPY_DTYPES[dtype])
    for sequence, first, last in _row_blocks(batch, seq_len):
        rows = spool.read(sequence * seq_len + first, sequence * seq_len + last)
        with np.errstate(over="ignore"):  # reported below, by name
            block = rows.astype(out.dtype)
        lost = np.isfinite(rows.astype(np.float32)) & ~np.isfinite(block.astype(np.float32))
        if lost.any():
            token, head, dim = (int(axis[0]) for axis in np.nonzero(lost))
            raise InputError(
                f"{name}: {float(rows[token, head, dim]):g} at token {first + token} head {head}"
                f" dim {dim}; more than {dtype} can hold;"
                " choose --dtype bfloat16 or float32"
            )
        out[sequence, :, first:last] = block.transpose(1, 0, 2)
    return out


def packed_shape(lengths: tuple[int, ...]) -> tuple[int, int]:
    """``(batch, seq_len)`` of sequences of these lengths.

    Examples
    --------
    >>> packed_shape((8, 8)), packed_shape((8, 5))
    ((2, 8), (1, 13))
    """
    if len(set(lengths)) == 1:
        return len(lengths), lengths[0]
    return 1, sum(lengths)


def _row_blocks(batch: int, seq_len: int) -> Iterator[tuple[int, int, int]]:
    for sequence in range(batch):
        for first in range(0, seq_len, _COPY_ROWS):
            yield sequence, first, min(first + _COPY_ROWS, seq_len)


def _as_numpy(tensor: Any) -> NDArray[Any]:
    import torch

    if tensor.dtype is torch.bfloat16:  # NumPy has no such type: pass the bits
        return np.asarray(tensor.view(torch.uint16).numpy())
    return np.asarray(tensor.numpy())


def _as_torch(rows: NDArray[Any], like: Any) -> Any:
    """``(tokens, heads, dim)`` rows as a tensor ``(1, heads, tokens, dim)`` like another."""
    import torch

    plain = rows.view(np.uint16) if rows.dtype == NUMPY_DTYPES["bfloat16"] else rows
    tensor = torch.from_numpy(plain)
    if tensor.dtype is torch.uint16:
        tensor = tensor.view(torch.bfloat16)
    return tensor.transpose(0, 1).unsqueeze(0).contiguous().to(like.device)
