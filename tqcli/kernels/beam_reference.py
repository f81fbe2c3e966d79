"""The specification of weighted turbo encoding: two beams of survivors, least-squares scale.

The blocks are those that :mod:`tqcli.kernels.reference` decodes; only the codes are chosen with
regard to each other. Two beams search side by side, for targets a little below and a little above
their natural size, and the one whose codes leave less weighted error is stored: on real keys that
is worth more than one beam of as many survivors in all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tqcli import rotation
from tqcli.kernels import leastsquares, reference
from tqcli.kernels.layout import TurboLayout
from tqcli.kernels.trellis_reference import FAR
from tqcli.kernels.weighting import Weighting

F32 = NDArray[np.float32]
GAINS = (np.float32(0.98), np.float32(1.06))
SURVIVORS = 8  # of each beam
_CHUNK = 256  # groups at a time


def encode(x: NDArray[np.generic], layout: TurboLayout, weighting: Weighting) -> NDArray[np.uint8]:
    """Encode groups ``(n, group)`` to blocks ``(n, group_bytes)`` of the least weighted error.

    A non-finite input, or one whose norm passes fp16, leaves a non-finite norm in the block.
    """
    out = np.empty((x.shape[0], layout.group_bytes), np.uint8)
    with np.errstate(all="ignore"):
        for at in range(0, x.shape[0], _CHUNK):
            columns = np.ascontiguousarray(x[at : at + _CHUNK].T.astype(np.float32))
            out[at : at + _CHUNK] = _encode_columns(columns, layout, weighting)
    return out


def _encode_columns(x: F32, layout: TurboLayout, weighting: Weighting) -> NDArray[np.uint8]:
    group = leastsquares.normalised(x)
    unit = rotation.SCALE[layout.group]
    y = np.stack([leastsquares.targets(group.spread, unit * gain) for gain in GAINS], axis=1)
    codes = search(y, layout, weighting)
    (scale, gain), (other_scale, other_gain) = (
        leastsquares.weighted_scale(group, layout.centroids[codes[:, beam]], weighting.weights)
        for beam in range(len(GAINS))
    )
    other = other_gain > gain
    chosen = np.where(other, codes[:, 1], codes[:, 0]).astype(np.uint8)
    norm = leastsquares.stored(np.where(other, other_scale, scale))
    return reference.assemble(np.ascontiguousarray(chosen.T), norm, layout)


def search(y: F32, layout: TurboLayout, weighting: Weighting) -> NDArray[np.intp]:
    """Codes of targets ``(group, beams, n)``, the same shape.

    At each value every survivor of a beam proposes the two levels around its target, and the
    candidates of least cost survive: survivor r is the lesser of the r-th least of those with the
    lower level and the r-th largest of those with the upper one, which together are the least.
    """
    size, beams, n = y.shape
    table, last = layout.centroids, len(layout.centroids) - 1
    moved = np.repeat(y[:, :, None], SURVIVORS, axis=2)  # (group, beams, survivors, n)
    cost = np.full((beams, SURVIVORS, n), FAR)
    cost[:, 0] = 0
    slots = 2 * np.arange(SURVIVORS, dtype=np.int32)[:, None]
    parents = np.empty((size, beams, SURVIVORS, n), np.intp)
    codes, reach = np.empty_like(parents), weighting.reach
    for t in range(size):
        low = np.zeros((beams, SURVIVORS, n), np.intp)
        for level in table[1:last]:
            low += moved[t] >= level
        lower, upper = (
            _keys(cost, moved[t] - table[low + above], weighting.costs[t], slots + above)
            for above in (0, 1)
        )
        best = np.minimum(lower, upper[:, ::-1])
        cost, slot = best.view(np.float32), best & 15
        parents[t] = slot >> 1
        codes[t] = np.take_along_axis(low, parents[t], axis=1) + (slot & 1)
        feedback = weighting.feedback[t]
        later = slice(t + 1, reach[t])
        error = y[t][:, None] - table[codes[t]]
        carried = np.take_along_axis(moved[later], parents[t][None], axis=2)
        moved[later] = carried + feedback[later, None, None, None] * error
    return _trace(codes, parents, np.argmin(best, axis=1))


def _keys(cost: F32, error: F32, weight: np.float32, slots: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sorted costs of the candidates of one level, along the survivors."""
    return np.sort(leastsquares.keyed(cost + weight * (error * error), slots), axis=1)


def _trace(
    codes: NDArray[np.intp], parents: NDArray[np.intp], end: NDArray[np.intp]
) -> NDArray[np.intp]:
    found = np.empty((codes.shape[0], *end.shape), np.intp)
    at = end[:, None]  # (beams, 1, n)
    for t in range(len(codes) - 1, -1, -1):
        found[t] = np.take_along_axis(codes[t], at, axis=1)[:, 0]
        at = np.take_along_axis(parents[t], at, axis=1)
    return found
