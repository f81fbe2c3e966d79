"""What trellis and weighted encoders share in NumPy: the rotated group, and the best scale.

Part of the specification: every float32 operation and its order. Vectors stand in columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tqcli import rotation
from tqcli.kernels.reference import TINY

F32 = NDArray[np.float32]
LANES = 16  # partial sums of a sum over a group
_ROOT = {64: np.float32(8), 128: np.float32(11.313708498984761)}


class Normalised(NamedTuple):
    """Groups of unit length.

    Parameters
    ----------
    length : float32 array, shape (n,)
    unit : float32 array, shape (group, n)
        Zeros where the length is not finite, or too small to count.
    spread : float32 array, shape (group, n)
        ``unit`` after the first signs and the butterflies, unscaled: of unit variance but for the
        second signs.
    """

    length: F32
    unit: F32
    spread: F32


def lane_sum(terms: F32) -> F32:
    """Sum over axis 0 of ``(group, ...)``: 16 partial sums by index, folded by halves."""
    total = np.zeros((LANES, *terms.shape[1:]), np.float32)
    for part in terms.reshape(-1, LANES, *terms.shape[1:]):
        total += part
    while len(total) > 1:
        half = len(total) // 2
        total = total[:half] + total[half:]
    return np.asarray(total[0])


def normalised(x: F32) -> Normalised:
    """Lengths, unit vectors and their butterflies of the columns of ``(group, n)``."""
    length = np.sqrt(lane_sum(x * x))
    counts = (length > TINY) & np.isfinite(length)
    inverse = np.where(counts, np.float32(1) / length, np.float32(0))
    unit = np.where(counts, x * inverse, np.float32(0))
    spread = unit * rotation.signs(len(x))[0][:, None]
    rotation.hadamard_in_place(spread)
    return Normalised(length, unit, spread)


def targets(spread: F32, factor: np.float32) -> F32:
    """Rotated vectors times `factor`: what codes are held against."""
    second = rotation.signs(len(spread))[1]
    return spread * (factor * second)[:, None]


def plain_scale(group: Normalised, y: F32, values: F32) -> F32:
    """The scale of `values` with the least squared error, `y` being :func:`targets` with 1."""
    ratio, _ = _ratio(lane_sum(y * values), lane_sum(values * values))
    scale: F32 = (group.length * rotation.SCALE[len(y)]) * ratio
    return scale


def weighted_scale(group: Normalised, values: F32, weights: F32) -> tuple[F32, F32]:
    """The scale of rotated `values` with the least weighted error, and the error it takes away.

    Returns
    -------
    scale : float32 array, shape (n,)
    gain : float32 array, shape (n,)
        Weighted power of the unit vector less that of its error.
    """
    first, second = rotation.signs(len(values))
    back = values * second[:, None]
    rotation.hadamard_in_place(back)
    back *= first[:, None]
    weighted = back * weights[:, None]
    products = lane_sum(weighted * group.unit)
    ratio, gain = _ratio(products, lane_sum(weighted * back))
    return (group.length * ratio) * _ROOT[len(values)], gain


def _ratio(products: F32, squares: F32) -> tuple[F32, F32]:
    """``products / squares`` where the products are positive, else 0; and their quotient's gain."""
    ratio = np.where(products > 0, products / squares, np.float32(0))
    return ratio, products * ratio


def stored(scale: F32) -> NDArray[np.float16]:
    """Scales as blocks hold them; one NaN, whose sign and payload are not portable."""
    half = scale.astype(np.float16)
    half[np.isnan(half)] = np.float16("nan")
    return half


def keyed(cost: F32, slot: NDArray[np.int32]) -> NDArray[np.int32]:
    """Costs as integers of the same order whose four lowest bits say which candidate they are.

    Costs are not negative, so their bits compare as they do; a tie goes to the lower slot.
    """
    return (np.ascontiguousarray(cost).view(np.int32) & ~15) | slot
