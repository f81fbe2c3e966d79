"""How much an error in each value of a group costs, factored for sequential encoders.

The error of a key before the rotation costs ``sum of w_i * e_i^2``, `w` being the mean power of the
queries in the pair that RoPE turns; RoPE turns within pairs, so `w` is the same at every position.
Codes are chosen one after the other in the rotated domain, where the cost is ``e' S e`` with
``S = R W R'``. Its factor ``S = L' D L``, L unit lower triangular, makes it a sum of squares::

    cost = sum over t of  D_t * (e_t + sum over j < t of L_tj * e_j)^2

so that value t is encoded against its target plus what the errors before it feed forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli import rotation
from tqcli.errors import input_error

F32 = NDArray[np.float32]
# Part of the mean weight that every value gets: what the queries of a calibration never asked for
# is still worth something, and the factor stays well conditioned.
RIDGE = 0.01


@dataclass(frozen=True, eq=False)
class Weighting:
    """Weights of one group and their factor; :func:`weigh` makes one.

    Parameters
    ----------
    packed : float32 array, shape (2 + group, group)
        The three arrays below, one after the other, as the extension reads them.
    """

    packed: F32

    @property
    def weights(self) -> F32:
        """Of the values before the rotation, shape (group,); their mean is 1 plus the ridge."""
        return np.asarray(self.packed[0])

    @property
    def costs(self) -> F32:
        """D, what a squared error against the moved target costs, shape (group,)."""
        return np.asarray(self.packed[1])

    @property
    def feedback(self) -> F32:
        """Row t holds what an error at value t adds to each later target, L's column t.

        Shape (group, group); 0 up to and including t.
        """
        return np.asarray(self.packed[2:])

    @property
    def reach(self) -> NDArray[np.intp]:
        """By value, where the targets begin that no error up to it has moved, shape (group,)."""
        group = self.packed.shape[1]
        last = np.where(self.feedback != 0, np.arange(1, group + 1), 0).max(axis=1)
        return np.asarray(np.maximum.accumulate(last), np.intp)


def weigh(weights: object, group: int) -> Weighting:
    """Check and factor the weights of one group; the latest factors are remembered.

    Parameters
    ----------
    weights : float array, shape (group,)
        Not negative, finite; only ratios count. All zero, from queries that were zero, weighs
        every value alike.
    group : {64, 128}

    Raises
    ------
    InputError
        If `weights` is no such array.
    """
    if not isinstance(weights, np.ndarray) or weights.dtype.kind != "f":
        came = f"dtype {weights.dtype}" if isinstance(weights, np.ndarray) else type(weights)
        raise input_error("weights", f"{came}", "a float array")
    if weights.shape != (group,):
        raise input_error("weights", f"shape {weights.shape}", f"shape ({group},)")
    wide = weights.astype(np.float64)
    bad = ~(np.isfinite(wide) & (wide >= 0))
    if bad.any():
        at = int(np.argmax(bad))
        raise input_error("weights", f"{wide[at]} at {at}", "finite and not negative")
    return _factored(wide.tobytes())


@lru_cache(maxsize=512)
def _factored(raw: bytes) -> Weighting:
    weights = np.frombuffer(raw, np.float64)
    largest = weights.max()
    weights = weights / largest if largest > 0 else np.ones_like(weights)
    weights = weights / (math.fsum(weights) / len(weights)) + RIDGE
    costs, lower = factor(rotated_weights(weights))
    packed = np.concatenate([weights[None], costs[None], lower.T]).astype(np.float32, order="C")
    packed.flags.writeable = False
    return Weighting(packed)


def rotated_weights(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """``S = R W R'`` of the signed Hadamard rotation R and a diagonal W; float64, (group, group).

    Row i of the Hadamard matrix times row j is row ``i ^ j``, so every entry is one of the
    Hadamard transform of the weights. Weights that repeat, as those of RoPE's halves do, leave
    exact zeros in it.
    """
    group = len(weights)
    transform: Any = weights.copy().reshape(-1, 1)
    rotation.hadamard_in_place(transform)
    number = np.arange(group)
    sign = rotation.signs(group)[1].astype(np.float64)
    dyadic: NDArray[np.float64] = transform[:, 0][number[:, None] ^ number] / group
    return dyadic * sign * sign[:, None]


def factor(square: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``S = L' D L`` of a positive definite matrix, L lower triangular with 0 on its diagonal.

    One value after the other is eliminated, the last first; elementwise operations only, so that
    every machine gets the same bits.

    Returns
    -------
    costs : float64 array, shape (n,)
        The diagonal of D.
    lower : float64 array, shape (n, n)
        L without its diagonal of ones.
    """
    rest, costs = square.copy(), np.empty(len(square))
    lower = np.zeros_like(rest)
    for t in range(len(square) - 1, -1, -1):
        costs[t] = rest[t, t]
        lower[t, :t] = rest[t, :t] / costs[t]
        rest[:t, :t] -= np.multiply.outer(lower[t, :t], rest[t, :t])
    return costs, lower


__all__ = ["RIDGE", "Weighting", "factor", "rotated_weights", "weigh"]
