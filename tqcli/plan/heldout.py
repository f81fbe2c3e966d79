"""How much of K's power is left once a mean is taken away, on tokens that are not in the mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def residual(sums: F64, power: F64, counts: NDArray[np.int64]) -> float | None:
    """Power left over raw power, each text judged by the mean of the others.

    A single text is judged in halves, each by the mean of the other one.

    Parameters
    ----------
    sums : float64 array, shape (texts, 2, heads, head_dim)
        Of K before RoPE, over each half of each text.
    power : float64 array, shape (texts, 2, heads)
        Of the squared lengths of K before RoPE.
    counts : int array, shape (texts, 2)
        Tokens in each.

    Returns
    -------
    float or None
        None where there is nothing to judge by, or no power.
    """
    if len(sums) > 1:
        sums, power, counts = (x.sum(axis=1, keepdims=True) for x in (sums, power, counts))
    parts = [x.reshape(-1, *x.shape[2:]) for x in (sums, power, counts)]
    own, raw, number = parts[0], parts[1], parts[2][:, None]
    others = number.sum() - number
    used = (number[:, 0] > 0) & (others[:, 0] > 0)
    if not used.any() or not raw[used].sum() > 0:
        return None
    mean = (own.sum(axis=0) - own)[used] / others[used, :, None]
    cross = (mean * own[used]).sum(axis=-1)
    left = raw[used] - 2 * cross + number[used] * (mean * mean).sum(axis=-1)
    return float(left.sum() / raw[used].sum())
