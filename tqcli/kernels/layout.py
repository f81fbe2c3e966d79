"""The layouts of turbo and trellis blocks: every number a kernel needs to read or write one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GROUPS = (64, 128)


@dataclass(frozen=True, eq=False)
class TurboLayout:
    """Byte layout and tables of one member of the turbo family (``docs/format.md``).

    A *group* is the run of values that is rotated together; it is stored as one or more *blocks*,
    each ``header`` bytes (fp16 norm, then zeros) followed by the codes::

        bits 2   qs[block/4]                  two bits a value, low pair first
        bits 3   qs[block/4] signs[block/8]   low two bits, then the plane of bit 2
        bits 4   qs[block/2]                  nibbles, low nibble first

    Parameters
    ----------
    bits : {2, 3, 4}
    group : {64, 128}
    block : int
        Values per stored block; divides ``group`` and is a multiple of 32.
    header : {2, 4}
        Bytes before the codes; a 4-byte header holds the norm and a second fp16 that is zero.
    corrected : bool
        True: the norm is divided by the length of the decoded unit vector.
    centroids : float32 array, shape (2**bits,)
        Ascending, in units of a unit vector of ``group`` values.
    midpoints : float32 array, shape (2**bits - 1,)
        Ascending decision boundaries; a value on a boundary belongs to the upper level.
    """

    bits: int
    group: int
    block: int
    header: int
    corrected: bool
    centroids: NDArray[np.float32]
    midpoints: NDArray[np.float32]

    @property
    def code_bytes(self) -> int:
        """Bytes of packed codes in one block."""
        return self.block * self.bits // 8

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return self.header + self.code_bytes

    @property
    def blocks_per_group(self) -> int:
        """Blocks that one group is stored as."""
        return self.group // self.block

    @property
    def group_bytes(self) -> int:
        """Bytes of one group."""
        return self.block_bytes * self.blocks_per_group


# Bits of a trellis window, by bits a value: 32, 16 and 16 states.
WINDOWS = {2: 7, 3: 7, 4: 8}
# What one step of a trellis table is worth; a power of two, so that table and products are exact.
TRELLIS_UNIT = np.float32(1 / 32)


@dataclass(frozen=True, eq=False)
class TrellisLayout:
    """Byte layout and table of one member of the trellis family (``docs/format.md``).

    A block is one group: fp16 scale, then the symbols, `bits` bits a value, as one LSB-first
    stream. The *window* of a value is the run of bits that ends with its symbol, zeros standing
    before the stream; it reaches back over the symbols before and indexes the table::

        stream   0 0 0 0 | a a a b b b c c c ...        bits 3, window 7
        value 0  -------------
        value 1        -------------

    Seen as a trellis, the state before a value is the ``window - bits`` bits in front of its
    symbol, and the state before the first is 0.

    Parameters
    ----------
    bits : {2, 3, 4}
    group : {64, 128}
    table : int8 array, shape (2**window,)
        Values in 1/32 of the standard deviation of a rotated value.
    """

    bits: int
    group: int
    table: NDArray[np.int8]

    header = 2
    blocks_per_group = 1

    @property
    def window(self) -> int:
        """Bits of a window."""
        return WINDOWS[self.bits]

    @property
    def states(self) -> int:
        """States of the trellis."""
        return int(2 ** (self.window - self.bits))

    @property
    def values(self) -> NDArray[np.float32]:
        """The table as float32, in standard deviations; exact."""
        return self.table.astype(np.float32) * TRELLIS_UNIT

    @property
    def block(self) -> int:
        """Values of one block."""
        return self.group

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return self.header + self.group * self.bits // 8

    @property
    def group_bytes(self) -> int:
        """Bytes of one group, which is one block."""
        return self.block_bytes


Layout = TurboLayout | TrellisLayout
