"""The token axis of a cache: positions, where texts begin and end, which tokens stay float."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.kernels.center import Turn
from tqcli.kv.dump import Dump
from tqcli.rope import Rope, cos_sin_table

# A text's first tokens draw attention to themselves and have K unlike all others: they count in no
# mean.
SINKS = 4
Span = tuple[int, int]  # first token, and the one behind the last


@dataclass(frozen=True, eq=False)
class Tokens:
    """The token axis of one side of a cache.

    Parameters
    ----------
    seq_len : int
    positions : int32 array, shape (1 or batch, seq_len), optional
        Position of each token in its text; None where the source does not say.
    spans : tuple of tuples of (int, int), optional
        The texts of each row of `positions`, one after the other along the axis; None where the
        source does not say.
    """

    seq_len: int
    positions: NDArray[np.int32] | None = None
    spans: tuple[tuple[Span, ...], ...] | None = None
    _turns: dict[Any, Turns] = field(default_factory=dict, repr=False)
    _kept: dict[tuple[int, int], tuple[Span, ...]] = field(default_factory=dict, repr=False)

    @classmethod
    def of_text(cls, first: int, count: int) -> Tokens:
        """`count` tokens of one text, the first at position `first`."""
        positions = np.arange(first, first + count, dtype=np.int32)[None]
        return cls(count, positions, (((0, count),),))

    @classmethod
    def of_source(
        cls, source: Mapping[str, Any], stored: NDArray[np.int32] | None, batch: int, seq_len: int
    ) -> Tokens:
        """What a dump says of its tokens.

        Parameters
        ----------
        source : mapping
            Provenance; ``positions`` (runs of each text) and ``sequence_lengths`` are read.
        stored : int32 array, optional
            The dump's tensor of positions, which goes before the provenance.
        batch, seq_len : int
            Of the tensor in question. A layer of another length than the positions (a window)
            has none.
        """
        lengths = _lengths(source.get("sequence_lengths"))
        sizes = {seq_len: 1, batch * seq_len: batch}
        positions = stored if stored is not None else _positions(source.get("positions"), sizes)
        if positions is None or positions.size not in sizes or not seq_len:
            return cls(seq_len)
        positions = positions.reshape(sizes[positions.size], seq_len)
        if sum(lengths) == seq_len and len(positions) == 1:
            ends = np.cumsum(lengths).tolist()
            return cls(seq_len, positions, (tuple(zip([0, *ends], ends, strict=False)),))
        return cls(seq_len, positions, tuple(_rising(row) for row in positions))

    @classmethod
    def of_dump(cls, dump: Dump, batch: int, seq_len: int) -> Tokens:
        """What a dump says of the tokens of a tensor of that batch and length."""
        stored = dump.stored.get("positions")
        positions = None if stored is None else stored.read()
        return cls.of_source(dump.source, positions, batch, seq_len)

    def row(self, batch: int) -> int:
        """Row of `positions` and `spans` for a row of the batch."""
        rows = self.positions if self.positions is not None else self.spans
        return batch if rows is not None and len(rows) > 1 else 0

    def texts(self, row: int) -> tuple[Span, ...]:
        """The texts of a row; the whole axis where the source does not say."""
        return ((0, self.seq_len),) if self.spans is None else self.spans[row]

    def below(self, row: int, span: Span, count: int) -> int:
        """How many tokens of a text stand at positions below `count`."""
        first, stop = span
        if self.positions is None:
            return min(count, stop - first)
        return int(np.searchsorted(self.positions[row, first:stop], count))

    def counted(self, row: int) -> list[Span]:
        """Of each text the tokens from the fifth on, which count in a mean."""
        return [
            (first + self.below(row, (first, stop), SINKS), stop) for first, stop in self.texts(row)
        ]

    def kept(self, keep_first: int, keep_last: int, where: str = "the cache") -> tuple[Span, ...]:
        """Runs of tokens that stay in float16, the same in every head and row.

        Parameters
        ----------
        keep_first : int
            Tokens at positions below it.
        keep_last : int
            So many at the end of each text.
        where : str
            Whose tokens they are, for errors.

        Raises
        ------
        InputError
            The last tokens are asked for and the source does not say where texts end, or the
            rows of a batch differ in what is kept.
        """
        key = keep_first, keep_last
        if key not in self._kept:
            if keep_last and self.spans is None:
                raise InputError(
                    f"{where}: no positions in it, so nothing says where its texts end; leave "
                    "--keep-last out, or dump the model with tq dump"
                )
            rows = 1 if self.spans is None else len(self.spans)
            found = {self._kept_of(row, keep_first, keep_last) for row in range(rows)}
            if len(found) > 1:
                raise InputError(
                    f"{where}: its sequences stand at different positions, so --keep-first and "
                    "--keep-last keep different tokens of each; dump them one by one"
                )
            self._kept[key] = found.pop()
        return self._kept[key]

    def _kept_of(self, row: int, keep_first: int, keep_last: int) -> tuple[Span, ...]:
        runs: list[Span] = []
        for first, stop in self.texts(row):
            head = first + self.below(row, (first, stop), keep_first)
            tail = max(stop - keep_last, head)
            for a, b in ((first, head), (tail, stop)):
                if runs and runs[-1][1] == a and b > a:
                    runs[-1] = runs[-1][0], b
                elif b > a:
                    runs.append((a, b))
        return tuple(runs)

    def turns(self, rope: Rope | None) -> Turns:
        """How `rope` turns these tokens; None turns nothing."""
        key = None if rope is None else (rope.inv_freq, rope.magnitude, rope.pairs)
        if key not in self._turns:
            self._turns[key] = Turns(self, rope)
        return self._turns[key]


class Turns:
    """Cosines and sines of tokens, made once for all layers and heads that share them.

    They are kept in tiles of :data:`TILE` tokens, the ones used last up to :data:`MAX_BYTES`.
    """

    def __init__(self, tokens: Tokens, rope: Rope | None) -> None:
        self._tokens, self._rope = tokens, rope
        self._lock = threading.Lock()  # several layers are worked on at once
        self._tiles: OrderedDict[tuple[int, int], Turn] = OrderedDict()
        pairs = 0 if rope is None else rope.rotary_dims // 2
        self._room = max(MAX_BYTES // max(2 * 4 * TILE * pairs, 1), 1)

    def of(self, row: int, first: int, count: int) -> Iterator[tuple[int, int, Turn]]:
        """Turns of tokens ``first`` to ``first + count - 1``: ``(start, stop, turn)`` of each part,
        counted from `first`."""
        at = first
        while at < first + count:
            number = at // TILE
            stop = min((number + 1) * TILE, first + count)
            tile = self._tile(row, number)
            yield at - first, stop - first, tile.part(at - number * TILE, stop - number * TILE)
            at = stop

    def _tile(self, row: int, number: int) -> Turn:
        key = row, number
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = self._make(row, slice(number * TILE, (number + 1) * TILE))
                if len(self._tiles) > self._room:
                    self._tiles.popitem(last=False)
            self._tiles.move_to_end(key)
            return self._tiles[key]

    def _make(self, row: int, some: slice) -> Turn:
        positions = self._tokens.positions
        if self._rope is None or not self._rope.inv_freq:
            count = len(range(self._tokens.seq_len)[some])
            none = np.empty((count, 0), np.float32)
            return Turn(none, none)
        if positions is None:
            raise InputError("rope: no positions; K before RoPE cannot be had")
        cos, sin = cos_sin_table(positions[row, some], self._rope)
        return Turn(cos, sin, self._rope.pairs == "interleaved")


TILE = 8192  # tokens: enough to share among threads
MAX_BYTES = 128 << 20  # of one rotation's tables: 256k tokens of 128 values


def _lengths(entry: Any) -> Sequence[int]:
    good = isinstance(entry, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in entry
    )
    return entry if good else ()


def _positions(entry: Any, sizes: Collection[int]) -> NDArray[np.int32] | None:
    """Positions of the texts one after the other, from their runs ``[[first, count], ...]``.

    None unless there are just as many as one of `sizes`: a foreign record decides over no memory.
    """
    try:
        runs = [(int(first), int(count)) for text in entry for first, count in text]
        if min(min(run) for run in runs) < 0 or sum(count for _, count in runs) not in sizes:
            return None
        parts = [np.arange(first, first + count, dtype=np.int32) for first, count in runs]
    except (TypeError, ValueError, OverflowError):
        return None
    return np.concatenate(parts)


def _rising(positions: NDArray[np.int32]) -> tuple[Span, ...]:
    """Texts of a row that does not tell their lengths: a new one begins where positions fall."""
    starts = [0, *(np.flatnonzero(np.diff(positions) <= 0) + 1).tolist()]
    return tuple(zip(starts, [*starts[1:], len(positions)], strict=True))
