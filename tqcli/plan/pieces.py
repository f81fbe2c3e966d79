"""Vectors of a tensor piece by piece: cut where heads change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray


def by_head(
    first: int, piece: NDArray[Any], heads: int, seq_len: int
) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Cut a piece where heads change: ``(flat head over batch and heads, first vector, part)``."""
    at = 0
    while at < piece.shape[0]:
        row = (first + at) // seq_len
        end = min((row + 1) * seq_len - first, piece.shape[0])
        yield row, first + at, piece[at:end]
        at = end
