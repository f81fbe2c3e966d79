"""From vectors in steps to symbols and back: prediction, basis, rounding; in a closed loop.

Columns are tokens. A group's vectors ``x`` count 2^-14 steps; what later groups are predicted from
is ``x`` rounded to quarters of a step, at most 16 bits of them. Decoding is integer arithmetic
modulo 2^32, so it gives the same integers on every machine, and the encoder predicts from exactly
what a decoder will have. The symbols are the nearest integers to the coordinates of what the
prediction leaves, in the basis *as it is stored*: whatever basis and predictor are, no coordinate
of ``x - decoded`` is off by more than half a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tqcli.archive.code import CARRIED, FRACTION, Group
from tqcli.errors import InputError
from tqcli.kernels import products

F32 = NDArray[np.float32]
I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
MAX_SYMBOL = 32767
# Beyond this many steps x would not fit 32 bits.
MAX_STEPS = 1 << (30 - FRACTION)
# How far the columns of a basis may be from orthonormal: far above the rounding to 2^-14.
_ORTHONORMAL = 0.01


def predict(group: Group, before: Sequence[I16]) -> I32:
    """The prediction of a group from the carried vectors of those before; zeros without one.

    Parameters
    ----------
    group : Group
    before : sequence of int16 arrays, shape (values, tokens)
        :func:`carry` of the groups before, nearest last. A token whose magnitudes add up to more
        than :attr:`Group.limit` is not predicted: its sums might not fit 32 bits.

    Returns
    -------
    int32 array, shape (values, tokens)
        In units of 2^-14 steps.
    """
    return _predict(group, before, np.zeros((group.width, before[0].shape[1]), np.int32))


def decode(group: Group, symbols: I16, before: Sequence[I16]) -> I32:
    """A group from its symbols.

    Parameters
    ----------
    group : Group
    symbols : int16 array, shape (components, tokens)
    before : sequence of int16 arrays
        As in :func:`predict`.

    Returns
    -------
    int32 array, shape (values, tokens)
        In units of 2^-14 steps.
    """
    if group.basis is None:
        x = symbols.astype(np.int32) << FRACTION
    else:
        x = products.multiply(group.basis, symbols)
    return x if group.predictor is None else _predict(group, before, x)


def _predict(group: Group, before: Sequence[I16], x: I32) -> I32:
    """Add the prediction to `x`, in place."""
    if group.predictor is not None:
        inputs = np.concatenate(before)
        inputs[:, np.abs(inputs).sum(axis=0, dtype=np.int64) > group.limit] = 0
        products.multiply(group.predictor, inputs, shifts=group.shifts, add_to=x)
    return x


def carry(x: I32) -> I16:
    """What later groups are predicted from: quarters of a step, halves rounded up."""
    drop = FRACTION - CARRIED
    quarters = (x >> drop) + (x >> (drop - 1) & 1)
    return np.clip(quarters, -MAX_SYMBOL, MAX_SYMBOL).astype(np.int16)


class GroupEncoder:
    """The encoder of one group.

    Parameters
    ----------
    group : Group

    Raises
    ------
    InputError
        If the basis is not orthonormal.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self._inverse: F32 | None = None
        if group.basis is not None:
            basis = group.basis.astype(np.float32) * np.float32(2.0**-FRACTION)
            gram = basis.T @ basis
            gram[np.diag_indices_from(gram)] -= 1
            if np.abs(gram).max() > _ORTHONORMAL:
                raise InputError("archive code: a basis that is not orthonormal; derive it anew")
            self._inverse = np.linalg.inv(basis)

    def encode(self, steps: F32, before: Sequence[I16]) -> tuple[I16, I32]:
        """Symbols of a group, and what they decode to.

        Parameters
        ----------
        steps : float32 array, shape (values, tokens)
            The group's vectors, in steps.
        before : sequence of int16 arrays
            As in :func:`decode`.

        Returns
        -------
        symbols : int16 array, shape (components, tokens)
        x : int32 array, shape (values, tokens)

        Raises
        ------
        InputError
            If a value is too many steps.
        """
        if not np.abs(steps).max(initial=0) < MAX_STEPS:
            raise InputError(f"a value of more than {MAX_STEPS} steps; choose a larger step")
        rest = steps
        if self.group.predictor is not None:
            rest = steps - predict(self.group, before) * np.float32(2.0**-FRACTION)
        y = np.rint(rest if self._inverse is None else self._inverse @ rest)
        if np.abs(y).max(initial=0) > MAX_SYMBOL:
            raise InputError(f"a symbol beyond {MAX_SYMBOL}; choose a larger step")
        symbols = y.astype(np.int16)
        return symbols, decode(self.group, symbols, before)
