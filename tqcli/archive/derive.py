"""The side data of a step, from moments and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.archive import tables
from tqcli.archive.code import CARRIED, FRACTION, Code, Group, layer_of
from tqcli.archive.moments import Moments
from tqcli.archive.weights import Weights
from tqcli.errors import InputError

# Rounding to steps adds this variance to what a prediction is made from, in squared steps.
NOISE = 1 / 12
# A prediction's sums have 31 bits; this many times what is usual must still fit.
_HEADROOM = 8
_MOST_BITS = 15

F64 = NDArray[np.float64]


def derive(
    moments: Moments, weights: Sequence[Weights], step: float, *, group: int = 1, back: int = 2
) -> Code:
    """Means, steps, predictors, bases and expected tables for a step.

    Parameters
    ----------
    moments : Moments
        With a reach of at least ``(back + 1) * group - 1``.
    weights : sequence of Weights
        One a layer.
    step : float
        In the weighted space, above 0.
    group : int
        Layers coded together.
    back : int
        Groups before that a group is predicted from.

    Raises
    ------
    InputError
        If the moments do not reach so far, or hold too few tokens to have a variance.
    """
    if moments.reach < (back + 1) * group - 1:
        raise InputError(
            f"moments: a reach of {moments.reach} layers; groups of {group} with {back} before "
            f"need {(back + 1) * group - 1}"
        )
    if moments.tokens < 2:
        raise InputError(f"moments: of {moments.tokens} tokens; calibrate on more")
    matrices = [weight.matrix() / step for weight in weights]
    layers = []
    for i, weight in enumerate(weights):
        k_mean, v_mean = np.split(moments.mean(i), [weight.k.size])
        shape = (len(weight.k), -1)
        means = k_mean.reshape(shape), v_mean.reshape(shape)
        layers.append(layer_of(*means, weight.k, weight.v, step))
    groups: list[Group] = []
    for first in range(0, len(layers), group):
        own = range(first, min(first + group, len(layers)))
        before = range(max(first - back * group, 0), first)
        groups.append(_group(moments, matrices, own, before))
    return Code(float(step), group, back, layers, groups)


def _group(moments: Moments, matrices: Sequence[F64], own: range, before: range) -> Group:
    covariance = _covariance(moments, matrices, own, own)
    predictor = shifts = None
    if len(before):
        earlier = _covariance(moments, matrices, before, before)
        cross = _covariance(moments, matrices, before, own)
        noisy = earlier + NOISE * np.eye(len(earlier))
        exact: F64 = np.linalg.solve(noisy, cross).T.astype(np.float64, copy=False)
        predictor, shifts = _fixed_point(exact, np.diagonal(noisy))
        rounded = predictor * 2.0 ** -(shifts[:, None] + float(FRACTION - CARRIED))
        loss = rounded @ cross
        covariance = covariance - loss - loss.T + rounded @ noisy @ rounded.T
    variance, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    variance, vectors = variance[::-1], vectors[:, ::-1]
    expected = tables.nearest(np.sqrt(np.maximum(variance, 0) / 2 + NOISE / 2))
    basis = np.rint(vectors * 2.0**FRACTION).astype(np.int16, order="C")
    return Group(len(basis), basis, predictor, shifts, expected)


def _covariance(moments: Moments, matrices: Sequence[F64], left: range, right: range) -> F64:
    """Covariance of groups of layers, weighted, in squared steps."""
    return np.block(
        [[matrices[i].T @ moments.covariance(i, j) @ matrices[j] for j in right] for i in left]
    )


def _fixed_point(predictor: F64, power: NDArray[Any]) -> tuple[NDArray[np.int16], NDArray[np.int8]]:
    """Integers and shifts of the rows of a predictor.

    As many bits as leave its sums, of carried vectors with this mean square, within 31.
    """
    usual = np.sqrt(power).sum() * 2**CARRIED  # an upper bound of the mean sum of magnitudes
    bits = min(_MOST_BITS, 31 - np.log2(_HEADROOM * usual))
    largest = np.maximum(np.abs(predictor).max(axis=1), 2.0**-FRACTION)
    shifts = np.floor(bits - np.log2(largest)) - (FRACTION - CARRIED)
    shifts = np.clip(shifts, -FRACTION, 31).astype(np.int8)
    scaled = np.rint(predictor * 2.0 ** (shifts[:, None] + float(FRACTION - CARRIED)))
    return np.clip(scaled, -32767, 32767).astype(np.int16, order="C"), shifts
