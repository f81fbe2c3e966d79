"""Sums over the tokens of each text, from the fifth on: K before RoPE, and squares.

Every sum is one float64 chain in the order of the tokens, so that it depends on the tokens alone:
not on pieces, threads, kernels, or what else stands in the dump.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.kernels.center import sum_keys
from tqcli.plan.pieces import by_head
from tqcli.plan.tokens import Tokens
from tqcli.rope import Rope

F64 = NDArray[np.float64]
HALVES = 2  # each text counts in two parts, so that one can judge the mean of the other
_ROWS = 2048  # vectors squared at a time


class TextSums(ABC):
    """Sums of vectors by text, half of it, and head.

    Parameters
    ----------
    shape : tuple of int
        (batch, heads, seq_len, head_dim).
    tokens : Tokens
    where : str
        Names the tensor in errors.
    """

    def __init__(self, shape: tuple[int, int, int, int], tokens: Tokens, where: str) -> None:
        batch, self.heads, self.seq_len, head_dim = shape
        self.tokens, self.where = tokens, where
        # of each row of the batch: first token, the one behind the last, place among the sums
        self._runs: list[list[tuple[int, int, int]]] = []
        counts: list[int] = []
        for number in range(batch):
            self._runs.append([])
            for first, stop in tokens.counted(tokens.row(number)):
                middle = first + (stop - first) // HALVES
                for a, b in ((first, middle), (middle, stop)):
                    self._runs[-1].append((a, b, len(counts)))
                    counts.append(b - a)
        self._counts = np.array(counts, np.int64)
        self._sums = np.zeros((len(counts), self.heads, head_dim))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Tokens that count: shape (texts, 2)."""
        return self._counts.reshape(-1, HALVES)

    def add(self, first: int, piece: NDArray[Any]) -> None:
        """Take in vectors ``(n, head_dim)`` from flat index `first` on; they come in order.

        Raises
        ------
        InputError
            A value is not finite.
        """
        for row, at, part in by_head(first, piece, self.heads, self.seq_len):
            number, head = divmod(row, self.heads)
            start = at % self.seq_len
            for a, b, place in self._runs[number]:
                low, high = max(a, start), min(b, start + len(part))
                if low < high:
                    some, sums = part[low - start : high - start], self._sums[place, head]
                    self._add(some, self.tokens.row(number), low, sums)
                    if not np.isfinite(sums).all():
                        self._refuse(some, number, head, low)

    def _refuse(self, vectors: NDArray[Any], number: int, head: int, first: int) -> None:
        """Name the value that no sum can hold."""
        row, dim = np.unravel_index(int(np.argmin(np.isfinite(vectors))), vectors.shape)
        batch = f"batch {number} " if number else ""
        raise InputError(
            f"{self.where}: {batch}token {first + row} head {head} dim {dim}: "
            f"{vectors[row, dim]}; a mean needs finite values, fix the dump or pass "
            "--nonfinite zero"
        )

    @abstractmethod
    def _add(self, vectors: NDArray[Any], row: int, first: int, sums: F64) -> None:
        """Add tokens `first` to ``first + n - 1`` of a row to the sums of one head."""

    def sums(self) -> F64:
        """Shape (texts, 2, heads, head_dim)."""
        return self._sums.reshape(-1, HALVES, *self._sums.shape[1:])


class KeySums(TextSums):
    """Sums of K before RoPE, from K after it.

    Parameters
    ----------
    shape, tokens, where
        As :class:`TextSums` takes them.
    rope : Rope or None
        None leaves K as it is.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        tokens: Tokens,
        rope: Rope | None,
        where: str = "K",
    ) -> None:
        super().__init__(shape, tokens, where)
        self._rope = rope

    def _add(self, vectors: NDArray[Any], row: int, first: int, sums: F64) -> None:
        for start, stop, turn in self.tokens.turns(self._rope).of(row, first, len(vectors)):
            sum_keys(vectors[start:stop], turn, sums)

    def sums(self) -> F64:
        """Sums of K before RoPE, shape (texts, 2, num_kv_heads, head_dim)."""
        return without_magnitude(super().sums(), self._rope)

    def mean(self) -> F64:
        """Mean over all texts, shape (num_kv_heads, head_dim); zero where no token counts."""
        return in_order(self.sums()) / max(int(self._counts.sum()), 1)


class SquareSums(TextSums):
    """Sums of squares, value by value."""

    def _add(self, vectors: NDArray[Any], row: int, first: int, sums: F64) -> None:
        for start in range(0, len(vectors), _ROWS):
            some = vectors[start : start + _ROWS].astype(np.float64)
            with np.errstate(invalid="ignore"):
                sums[...] = in_order(np.concatenate([sums[None], some * some])[:, None])


def without_magnitude(sums: F64, rope: Rope | None) -> F64:
    """A copy without the factor that RoPE put on its values, twice: K or squares of it."""
    made = sums.copy()
    if rope is not None:
        made[..., : rope.rotary_dims] /= rope.magnitude**2
    return made


def in_order(sums: F64) -> F64:
    """The sum over the two leading axes, one after the other."""
    rows = sums.reshape(-1, *sums.shape[2:])
    # accumulate adds in order, where a sum may add pairwise
    return np.add.accumulate(rows, axis=0)[-1] if len(rows) else np.zeros(sums.shape[2:])
