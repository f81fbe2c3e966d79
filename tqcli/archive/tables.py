"""The fixed family of 64 Laplace tables under which symbols are coded.

Table ``t`` is for a Laplace distribution of scale ``b = 2^(t/6 - 4)`` steps, so six tables later it
is twice as wide. The probability of each integer is the integral over its cell::

    P(0) = 1 - r^(1/2)        P(+-q) = (1 - r) * r^(q - 1/2) / 2        r = e^(-1/b)

Frequencies are that times 4,096, rounded to nearest even, at least 1, down to the last integer
that comes to half a slot; the escape gets the rest of both tails, and 0 what is then missing to
4,096. They are computed in decimal arithmetic, which is the same on every machine.

From ``b = 11`` on, a row of symbols is first halved until a table of at most that scale fits
(:func:`split`); the lower bits, nearly uniform, are stored as they are.
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
SHAPES = 46  # tables of their own, up to b = 2^(45/6 - 4) = 11.3
_DIGITS = 40

F64 = NDArray[np.float64]


@cache
def tables() -> rans.Tables:
    """The :data:`SHAPES` tables of their own, as the entropy coder takes them."""
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
        tails = 2 * one / (1 - ratio)
        escape = max(1, round(tails))
    side = half + [0] * (rans.SYMBOLS // 2 - 1 - len(half))
    middle = rans.SLOTS - escape - 2 * sum(half)
    return [escape, *side[::-1], middle, *side]


def shape_of(choice: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Table of its own and number of lower bits that stand for each of `choice`.

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
