"""The specification of trellis blocks: Viterbi search, least-squares scale, bit stream.

Whatever runs in its place (``kernels/native``) gives the same bytes and floats for every input.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqcli import rotation
from tqcli.kernels import leastsquares
from tqcli.kernels.layout import TrellisLayout
from tqcli.kernels.weighting import Weighting

F32 = NDArray[np.float32]
# Factor on the targets of a weighted search, by bits. Its errors are larger and not independent of
# the values, and the best scale comes out smaller by about as much.
GAINS = {2: np.float32(1), 3: np.float32(1.1), 4: np.float32(1)}
FAR = np.float32(1e30)  # cost of a state that the first value cannot come from
_CHUNK = 256  # groups at a time


def encode(
    x: NDArray[np.generic], layout: TrellisLayout, weighting: Weighting | None = None
) -> NDArray[np.uint8]:
    """Encode groups ``(n, group)`` of floats to ``(n, group_bytes)``.

    A non-finite input, or one whose scale passes fp16, leaves a non-finite scale in the block;
    codecs refuse those.
    """
    out = np.empty((x.shape[0], layout.group_bytes), np.uint8)
    with np.errstate(all="ignore"):
        for at in range(0, x.shape[0], _CHUNK):
            columns = np.ascontiguousarray(x[at : at + _CHUNK].T.astype(np.float32))
            out[at : at + _CHUNK] = _encode_columns(columns, layout, weighting)
    return out


def _encode_columns(
    x: F32, layout: TrellisLayout, weighting: Weighting | None
) -> NDArray[np.uint8]:
    group = leastsquares.normalised(x)
    gain = np.float32(1) if weighting is None else GAINS[layout.bits]
    y = leastsquares.targets(group.spread, gain)
    found = search(y, layout.bits, layout.values, weighting)
    values = layout.values[found]
    if weighting is None:
        scale = leastsquares.plain_scale(group, y, values)
    else:
        scale, _ = leastsquares.weighted_scale(group, values, weighting.weights)
    head = leastsquares.stored(scale).astype("<f2").view(np.uint8).reshape(-1, 2)
    symbols = found.T >> (layout.window - layout.bits)
    return np.concatenate([head, pack_stream(symbols, layout.bits)], axis=1)


def search(
    y: F32,
    bits: int,
    table: F32,
    weighting: Weighting | None = None,
    *,
    any_start: bool = False,
) -> NDArray[np.intp]:
    """Windows of least cost for targets ``(group, n)``, by Viterbi's algorithm.

    Into state s lead ``2**bits`` windows ``s << bits | j``, whose low bits are the low bits of the
    state before. Under a weighting each state carries its own path's targets (per-survivor
    processing): what the errors of that path add to the values to come.

    Parameters
    ----------
    y : float32 array, shape (group, n)
    bits : int
        Of a symbol, at most 4.
    table : float32 array, shape (2**window,)
    weighting : Weighting, optional
    any_start : bool
        True lets the path begin in any state instead of 0.

    Returns
    -------
    integer array, shape (group, n)
        Index into the table of each value.
    """
    size, n = y.shape
    branches, states = 1 << bits, len(table) >> bits
    windows = np.arange(len(table)).reshape(states, branches)  # (state after, branch)
    before, levels = windows & (states - 1), table[windows][:, :, None]
    slots = np.arange(branches, dtype=np.int32)[None, :, None]
    cost = np.full((states, n), np.float32(0) if any_start else FAR)
    cost[0] = 0
    moved = None if weighting is None else np.repeat(y[:, None], states, axis=1)
    reach = None if weighting is None else weighting.reach
    branch = np.empty((size, states, n), np.uint8)
    for t in range(size):
        if moved is None or weighting is None:
            error = y[t] - levels
            squared = error * error
        else:
            error = moved[t][before] - levels
            squared = weighting.costs[t] * (error * error)
        best = leastsquares.keyed(cost[before] + squared, slots).min(axis=1)
        cost, branch[t] = best.view(np.float32), best & 15
        if moved is not None and weighting is not None and reach is not None:
            window = windows[:, :1] | branch[t]
            came = window & (states - 1)
            feedback = weighting.feedback[t]
            later = slice(t + 1, reach[t])
            plain_error = y[t] - table[window]
            carried = np.take_along_axis(moved[later], came[None], axis=1)
            moved[later] = carried + feedback[later, None, None] * plain_error
    return _trace(branch, cost, bits)


def _trace(branch: NDArray[np.uint8], cost: F32, bits: int) -> NDArray[np.intp]:
    size, states, n = branch.shape
    state = np.argmin(cost.view(np.int32), axis=0)
    found = np.empty((size, n), np.intp)
    for t in range(size - 1, -1, -1):
        found[t] = state << bits | branch[t][state, np.arange(n)]
        state = found[t] & (states - 1)
    return found


def decode(
    blocks: NDArray[np.uint8],
    layout: TrellisLayout,
    *,
    rotated: bool = False,
    dtype: DTypeLike = np.float32,
) -> NDArray[np.generic]:
    """Decode ``(n, group_bytes)`` to floats ``(n, group)``: ``table[window] * scale``, unrotated.

    Float types of 16 bits are the float32 result rounded to nearest even; `rotated` leaves the
    inverse rotation out.
    """
    out = np.empty((blocks.shape[0], layout.group), dtype)
    with np.errstate(all="ignore"):
        for at in range(0, blocks.shape[0], _CHUNK):
            part = blocks[at : at + _CHUNK]
            scale = np.ascontiguousarray(part[:, :2]).view("<f2")[:, 0].astype(np.float32)
            columns = layout.values[np.ascontiguousarray(windows(part, layout).T)] * scale
            out[at : at + _CHUNK] = (columns if rotated else rotation.unrotate_columns(columns)).T
    return out


def windows(blocks: NDArray[np.uint8], layout: TrellisLayout) -> NDArray[np.uint8]:
    """Index into the table of every value, shape ``(n, group)``."""
    out = np.empty((len(blocks), layout.group), np.uint8)
    before = np.zeros((_CHUNK, layout.window - layout.bits), np.uint8)
    for at in range(0, len(blocks), _CHUNK):
        codes = blocks[at : at + _CHUNK, layout.header :]
        stream = np.unpackbits(codes, axis=1, bitorder="little")
        stream = np.concatenate([before[: len(codes)], stream], axis=1)
        out[at : at + _CHUNK] = read_windows(stream, layout.bits, layout.window)
    return out


def read_windows(stream: NDArray[np.uint8], bits: int, window: int) -> NDArray[np.uint16]:
    """Windows of a stream of single bits ``(n, length)``, one every `bits` from the first on."""
    runs = np.lib.stride_tricks.sliding_window_view(stream, window, axis=1)[:, ::bits]
    places = np.arange(window, dtype=np.uint16)
    return np.asarray((runs.astype(np.uint16) << places).sum(axis=2, dtype=np.uint16))


def pack_stream(symbols: NDArray[np.generic], bits: int) -> NDArray[np.uint8]:
    """Symbols ``(n, group)`` as one LSB-first stream of bits, ``(n, group * bits / 8)``."""
    planes = symbols.astype(np.uint8)[:, :, None] >> np.arange(bits, dtype=np.uint8) & 1
    return np.packbits(planes.reshape(len(symbols), -1), axis=1, bitorder="little")
