"""How RoPE turns the tokens of a cache: tables of cosines and sines, made once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.kernels.center import Turn
from tqcli.rope import Rope, cos_sin_table

TILE = 8192  # tokens: enough to share among threads
MAX_BYTES = 128 << 20  # of one rotation's tables: 256k tokens of 128 values


class Turns:
    """Cosines and sines of tokens, made once for all layers and heads that share them.

    They are kept in tiles of :data:`TILE` tokens, the ones used last up to :data:`MAX_BYTES`.

    Parameters
    ----------
    seq_len : int
    positions : int32 array, shape (rows, seq_len), optional
        None where they are not known, and nothing is turned.
    rope : Rope or None
        None turns nothing.
    """

    def __init__(
        self, seq_len: int, positions: NDArray[np.int32] | None, rope: Rope | None
    ) -> None:
        self._seq_len, self._positions, self._rope = seq_len, positions, rope
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
        positions = self._positions
        if self._rope is None or not self._rope.inv_freq:
            count = len(range(self._seq_len)[some])
            none = np.empty((count, 0), np.float32)
            return Turn(none, none)
        if positions is None:
            raise InputError("rope: no positions; K before RoPE cannot be had")
        cos, sin = cos_sin_table(positions[row, some], self._rope)
        return Turn(cos, sin, self._rope.pairs == "interleaved")
