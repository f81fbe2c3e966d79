"""The fixed family of 64 Laplace tables under which symbols are coded, and the choice among them.

Table ``t`` is for a Laplace distribution of scale ``b = 2^(t/6 - 4)`` steps, so six tables later it
is twice as wide. The probability of each integer is the integral over its cell::

    P(0) = 1 - r^(1/2)        P(+-q) = (1 - r) * r^(q - 1/2) / 2        r = e^(-1/b)

Frequencies are that times 4,096, rounded to nearest even, at least 1, down to the last integer
that comes to half a slot; the escape gets the rest of both tails, and 0 what is then missing to
4,096. They are computed in decimal arithmetic, which is the same on every machine.

Only the first 46 tables, up to ``b = 11``, have frequencies of their own. Above, symbols are halved
until one of these fits; the bits that go, nearly uniform, are stored as they are
(:mod:`tqcli.archive.chunk`).
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tqcli.kernels import rans

COUNT = 64
PER_OCTAVE = 6
FIRST_OCTAVE = -4
SHAPES = 46  # tables of their own
_DIGITS = 40
_COST_UNIT = 1 << 12  # costs are integers, in this part of a bit: the choice is the same anywhere
_ESCAPE_BITS = 16
# A mean |q| from which a row is coded halved; between the scales of the tables 45 and 46.
_WIDE = 2 ** ((SHAPES - 0.5) / PER_OCTAVE + FIRST_OCTAVE)

I16 = NDArray[np.int16]
U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


@cache
def family() -> rans.Tables:
    """The :data:`SHAPES` tables with frequencies of their own."""
    return rans.Tables(np.array([frequencies(t) for t in range(SHAPES)], np.uint16))


def frequencies(t: int) -> list[int]:
    """Slots of the symbols -128 (the escape) to 127 under table `t`, below :data:`SHAPES`.

    Examples
    --------
    >>> frequencies(0)[:2], frequencies(0)[127:130]
    ([1, 0], [1, 4093, 1])
    """
    with localcontext(prec=_DIGITS):
        scale = 2 ** (Decimal(t) / PER_OCTAVE + FIRST_OCTAVE)
        root = (-1 / (2 * scale)).exp()  # r^(1/2)
        ratio = root * root
        one = (1 - ratio) * root / 2 * rans.SLOTS  # slots of +1, before rounding
        half: list[int] = []
        while len(half) < rans.SYMBOLS // 2 - 1 and (not half or one >= Decimal("0.5")):
            half.append(max(1, round(one)))
            one *= ratio
        escape = max(1, round(2 * one / (1 - ratio)))
    side = half + [0] * (rans.SYMBOLS // 2 - 1 - len(half))
    middle = rans.SLOTS - escape - 2 * sum(half)
    return [escape, *side[::-1], middle, *side]


def shape_of(choice: U8) -> tuple[U8, U8]:
    """The table of its own and the number of halvings that stand for each of `choice`.

    Parameters
    ----------
    choice : uint8 array
        0 to 63, or ``rans.SILENT``.

    Returns
    -------
    shape, shift : uint8 arrays
        Below :data:`SHAPES` (silent stays silent), and 0 to 3.
    """
    above = np.where(choice == rans.SILENT, 0, choice.astype(np.int64) - (SHAPES - PER_OCTAVE))
    shift = np.maximum(above // PER_OCTAVE, 0)
    return (choice - PER_OCTAVE * shift).astype(np.uint8), shift.astype(np.uint8)


def nearest(scale: NDArray[np.float64]) -> U8:
    """The table whose scale, in steps, is nearest."""
    with np.errstate(divide="ignore"):
        place = np.rint(PER_OCTAVE * (np.log2(scale) - FIRST_OCTAVE))
    table: U8 = np.clip(place, 0, COUNT - 1).astype(np.uint8)
    return table


class Counts:
    """How often each symbol came in each of a number of rows: what a choice is made from.

    Parameters
    ----------
    rows : int
    """

    def __init__(self, rows: int) -> None:
        self.symbols = np.zeros((rows, rans.SYMBOLS), np.int64)
        self.magnitude = np.zeros(rows, np.int64)

    def add(self, symbols: I16) -> None:
        """Count more symbols of every row, int16 ``(rows, width)``."""
        inside = (symbols > rans.ESCAPE) & (symbols < -rans.ESCAPE)
        place = np.where(inside, symbols, rans.ESCAPE).astype(np.int64) - rans.ESCAPE
        place += rans.SYMBOLS * np.arange(len(symbols))[:, None]
        self.symbols += np.bincount(place.ravel(), minlength=self.symbols.size).reshape(
            self.symbols.shape
        )
        self.magnitude += np.abs(symbols, dtype=np.int64).sum(axis=1)

    def choose(self) -> U8:
        """The table under which each row is shortest; silent for rows of zeros.

        Rows too wide for a table of their own get the one that their mean magnitude asks for.
        """
        # Products of integers below 2^53 in float64: exact, in whatever order they are summed.
        cost = self.symbols.astype(np.float64) @ _costs().T
        choice = cost.argmin(axis=1).astype(np.uint8)
        mean = self.magnitude / np.maximum(self.symbols.sum(axis=1), 1)
        choice = np.where(mean < _WIDE, choice, nearest(mean))
        choice[self.magnitude == 0] = rans.SILENT
        chosen: U8 = choice.astype(np.uint8)
        return chosen


@cache
def _costs() -> NDArray[np.float64]:
    """What a symbol costs under each table, ``(SHAPES, 256)``: integers, in float64."""
    slots = family().frequencies.astype(np.float64)
    bits = rans.BITS - np.log2(np.maximum(slots, 1))
    bits = np.where(slots > 0, bits, bits[:, :1] + _ESCAPE_BITS)
    bits[:, 0] += _ESCAPE_BITS
    costs: NDArray[np.float64] = np.rint(bits * _COST_UNIT)
    return costs
