"""Kernels of the turbo and trellis families: floats to blocks and back, codes to bits and back.

``reference`` is the specification, ``native`` the same in C, once per instruction set. The
functions here check their arguments, take the best kernel that the machine can run
(:func:`active`), and give the same bytes and floats whichever that is.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqcli import rotation
from tqcli.errors import input_error
from tqcli.kernels import beam_reference, checks, choose, reference, trellis_reference
from tqcli.kernels.choose import active, available, set_threads, use
from tqcli.kernels.layout import Layout, TrellisLayout
from tqcli.kernels.reference import norms
from tqcli.kernels.weighting import Weighting, weigh

_capsules: WeakKeyDictionary[Layout, Any] = WeakKeyDictionary()
_NO_WEIGHTS = np.empty(0, np.float32)


def encode(
    x: NDArray[Any],
    layout: Layout,
    *,
    weights: NDArray[np.floating[Any]] | Weighting | None = None,
    out: NDArray[np.uint8] | None = None,
    threads: int | None = None,
) -> NDArray[np.uint8]:
    """Encode groups of floats to blocks.

    Parameters
    ----------
    x : float32, float16 or bfloat16 array, shape (n, group)
        Copied first if it is strided.
    layout : TurboLayout or TrellisLayout
    weights : float array, shape (group,), optional
        What a squared error costs in each value, before the rotation: codes are chosen together,
        so that the weighted error of the group is small. Decoding needs no weights. See
        :func:`tqcli.kernels.weighting.weigh`, whose result may be given as well.
    out : uint8 array, shape (n, group_bytes), optional
        Where to write; C-contiguous, no memory of `x`.
    threads : int, optional
        Default: what :func:`set_threads` says, all cores otherwise.

    Returns
    -------
    uint8 array, shape (n, group_bytes)
        Non-finite input leaves a non-finite norm in its blocks.

    Raises
    ------
    InputError
        If an array is not of these types and shapes, or a weight is negative or not finite.
    """
    capsule = layout_capsule(layout)
    kind = checks.float_type(checks.array(x, "x").dtype, "x")
    source = checks.rows(x, kind, layout.group, "x")
    blocks = checks.output(out, (len(source), layout.group_bytes), np.uint8, x)
    weighed = weights if isinstance(weights, Weighting | None) else weigh(weights, layout.group)
    index, number = choose.index(), checks.FLOATS.index(kind)
    if index is None or choose.native is None:
        blocks[...] = _encode_reference(source, layout, weighed)
        return blocks
    raw = source.view(np.uint8)
    factors = () if weighed is None else (weighed.packed,)
    encode_rows = choose.native.encode if weighed is None else choose.native.weighted_encode
    if isinstance(layout, TrellisLayout):
        encode_rows, factors = choose.native.trellis_encode, factors or (_NO_WEIGHTS,)

    def run(start: int, stop: int) -> None:
        encode_rows(index, capsule, *factors, raw[start:stop], number, blocks[start:stop])

    choose.split(run, len(source), layout.group, threads)
    return blocks


def _encode_reference(
    source: NDArray[Any], layout: Layout, weighed: Weighting | None
) -> NDArray[np.uint8]:
    if isinstance(layout, TrellisLayout):
        return trellis_reference.encode(source, layout, weighed)
    if weighed is None:
        return reference.encode(source, layout)
    return beam_reference.encode(source, layout, weighed)


def decode(
    blocks: NDArray[np.uint8],
    layout: Layout,
    *,
    rotated: bool = False,
    dtype: DTypeLike = np.float32,
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """Decode blocks to floats.

    Parameters
    ----------
    blocks : uint8 array, shape (n, group_bytes)
    layout : TurboLayout or TrellisLayout
    rotated : bool
        True stops before the inverse rotation: ``centroid * norm``, what attention kernels read.
    dtype : float32, float16 or bfloat16
        float16 and bfloat16 are the float32 result rounded to nearest even.
    out : array of `dtype`, shape (n, group), optional
        Where to write; C-contiguous, no memory of `blocks`.
    threads : int, optional
        Default: what :func:`set_threads` says, all cores otherwise.

    Returns
    -------
    array of `dtype`, shape (n, group)

    Raises
    ------
    InputError
        If an array is not of these types and shapes.
    """
    capsule = layout_capsule(layout)
    kind = checks.float_type(dtype, "dtype")
    source = checks.rows(blocks, np.uint8, layout.group_bytes, "blocks")
    values = checks.output(out, (len(source), layout.group), kind, blocks)
    index = choose.index()
    if index is None or choose.native is None:
        if isinstance(layout, TrellisLayout):
            decoded = trellis_reference.decode(source, layout, rotated=rotated, dtype=kind)
        else:
            decoded = reference.decode(source, layout, rotated=rotated, dtype=kind)
        values[...] = decoded
        return values
    decode_rows = choose.native.decode
    if isinstance(layout, TrellisLayout):
        decode_rows = choose.native.trellis_decode
    number = checks.FLOATS.index(kind)
    raw = values.view(np.uint8)

    def run(start: int, stop: int) -> None:
        decode_rows(index, capsule, source[start:stop], number, raw[start:stop], rotated)

    choose.split(run, len(source), layout.group, threads)
    return values


def codes(
    blocks: NDArray[np.uint8],
    layout: Layout,
    *,
    out: NDArray[np.uint8] | None = None,
    threads: int | None = None,
) -> NDArray[np.uint8]:
    """Table entry of every value of blocks ``(n, group_bytes)``; uint8 of shape ``(n, group)``."""
    layout_capsule(layout)
    source = checks.rows(blocks, np.uint8, layout.group_bytes, "blocks")
    levels = checks.output(out, (len(source), layout.group), np.uint8, blocks)
    if isinstance(layout, TrellisLayout):
        levels[...] = trellis_reference.windows(source, layout)
        return levels
    if choose.index() is None:
        levels[...] = reference.codes(source, layout)
        return levels
    _unpack(source, levels, layout.bits, layout.block, layout.header, threads)
    return levels


def pack_codes(
    codes: NDArray[np.uint8],
    bits: int,
    *,
    out: NDArray[np.uint8] | None = None,
    threads: int | None = None,
) -> NDArray[np.uint8]:
    """Pack levels ``(..., block)`` into ``(..., block * bits / 8)`` bytes.

    The bit order is that of :func:`tqcli.kernels.reference.pack_codes`; ``block`` is a multiple
    of 8.

    Raises
    ------
    InputError
        If a level needs more than `bits` bits, or an array is not of these types and shapes.
    """
    source = checks.runs(codes, checks.RUN, "codes")
    block = source.shape[-1]
    shape = (*source.shape[:-1], block // 8 * checks.bits(bits))
    packed = checks.output(out, shape, np.uint8, codes)
    index = choose.index()
    if source.size == 0:
        return packed
    if index is None or choose.native is None:
        _check_levels(int(np.bitwise_or.reduce(source, axis=None)), source, bits)
        packed[...] = reference.pack_codes(source, bits)
        return packed
    pack_rows, seen = choose.native.pack, []
    flat, target = source.reshape(-1, block), packed.reshape(-1, shape[-1])

    def run(start: int, stop: int) -> None:
        seen.append(pack_rows(index, bits, block, flat[start:stop], target[start:stop]))

    choose.split(run, len(flat), block, threads)
    for levels in seen:
        _check_levels(levels, source, bits)
    return packed


def unpack_codes(
    packed: NDArray[np.uint8],
    bits: int,
    *,
    out: NDArray[np.uint8] | None = None,
    threads: int | None = None,
) -> NDArray[np.uint8]:
    """Undo :func:`pack_codes`: ``(..., n)`` bytes to ``(..., n * 8 / bits)`` levels."""
    source = checks.runs(packed, checks.bits(bits), "packed")
    block = source.shape[-1] * 8 // bits
    levels = checks.output(out, (*source.shape[:-1], block), np.uint8, packed)
    if source.size == 0:
        return levels
    if choose.index() is None:
        levels[...] = reference.unpack_codes(source, bits)
        return levels
    flat = source.reshape(-1, source.shape[-1])
    _unpack(flat, levels.reshape(-1, block), bits, block, 0, threads)
    return levels


def _unpack(
    packed: NDArray[np.uint8],
    levels: NDArray[np.uint8],
    bits: int,
    block: int,
    header: int,
    threads: int | None,
) -> None:
    index, native = choose.index(), choose.native

    def run(start: int, stop: int) -> None:
        native.unpack(index, bits, block, header, packed[start:stop], levels[start:stop])  # type: ignore[union-attr]

    choose.split(run, len(packed), levels.shape[-1], threads)


def _check_levels(levels: int, source: NDArray[np.uint8], bits: int) -> None:
    if levels >> bits:
        raise input_error("codes", f"level {source.max()}", f"0 to {2**bits - 1} for {bits} bits")


def layout_capsule(layout: Layout) -> Any:
    """The layout as the extension reads it, checked once; None without the extension."""
    try:
        return _capsules[layout]
    except KeyError:
        pass
    checks.layout(layout)
    capsule = None
    if choose.native is not None:
        first, second = rotation.signs(layout.group)
        turn = (first, second, np.array([rotation.SCALE[layout.group]]))
        if isinstance(layout, TrellisLayout):
            floats = np.concatenate(turn)
            capsule = choose.native.trellis_layout(
                layout.bits, layout.group, np.ascontiguousarray(layout.table), floats
            )
        else:
            floats = np.concatenate([layout.centroids, layout.midpoints, *turn])
            capsule = choose.native.layout(
                layout.bits, layout.group, layout.block, layout.header, layout.corrected, floats
            )
    _capsules[layout] = capsule
    return capsule


__all__ = [
    "active",
    "available",
    "codes",
    "decode",
    "encode",
    "norms",
    "pack_codes",
    "set_threads",
    "unpack_codes",
    "use",
]
