"""Vectors of a tensor, piece by piece: cut where heads change and where coded tokens meet kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tqcli.codecs.heads import HeadRun
from tqcli.plan.tokens import Span


class Segment(NamedTuple):
    """Vectors `start` to `stop` - 1 of a piece: tokens of one head that are all kept or coded."""

    number: int  # row of the batch
    head: int
    token: int
    start: int
    stop: int
    kept: bool

    def cut(self, count: int) -> tuple[Segment, Segment]:
        """The first `count` vectors, and the others."""
        middle = self.start + count
        rest = self._replace(token=self.token + count, start=middle)
        return self._replace(stop=middle), rest


def segments(
    first: int, count: int, heads: int, seq_len: int, kept: tuple[Span, ...]
) -> Iterator[Segment]:
    """Cut vectors `first` to ``first + count - 1`` of a tensor.

    Parameters
    ----------
    first, count : int
        Flat indices over (batch, heads, seq_len).
    heads, seq_len : int
    kept : tuple of (first, behind the last)
        Tokens that stay float, in every head.
    """
    at = first
    while at < first + count:
        row, token = divmod(at, seq_len)
        stop = min(seq_len, token + first + count - at)
        for edge, is_kept in _cuts(kept, token, stop):
            start = at - first
            at += edge - token
            yield Segment(*divmod(row, heads), token, start, at - first, is_kept)
            token = edge


def _cuts(kept: tuple[Span, ...], first: int, stop: int) -> Iterator[tuple[int, bool]]:
    """Cut tokens `first` to `stop` - 1 at the edges of kept runs: ``(end, whether kept)``."""
    for a, b in kept:
        if b <= first or a >= stop:
            continue
        if a > first:
            yield a, False
        first = min(b, stop)
        yield first, True
    if first < stop:
        yield stop, False


def head_runs(parts: Iterable[Segment]) -> Iterator[HeadRun]:
    """Segments as runs of one head, counted among themselves."""
    at = 0
    for s in parts:
        yield s.head, at, at + s.stop - s.start
        at += s.stop - s.start
