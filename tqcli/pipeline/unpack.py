"""Packed cache in, dump out: floats in the original or rotated domain, or the codes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqcli.codecs import Codec
from tqcli.kv.container import PIECE_BYTES, ContainerWriter, Spec
from tqcli.kv.dump import dump_record
from tqcli.kv.packed import Packed, PackedTensor
from tqcli.pipeline.pieces import Progress, decode_piece, no_progress
from tqcli.version import __version__
from tqcli.workers import serial

DumpDomain = Literal["original", "rotated", "codes"]


def unpack(
    packed: Packed,
    path: str | os.PathLike[str],
    *,
    domain: DumpDomain = "original",
    dtype: DTypeLike | None = None,
    max_shard_bytes: int | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> str:
    """Decode every block of a packed cache into a dump.

    Parameters
    ----------
    packed : Packed
    path : str or path
        ``*.safetensors``.
    domain : {"original", "rotated", "codes"}
        Rotated values and codes keep the padding of their format.
    dtype : float16, bfloat16 or float32, optional
        The dtype of the dump that was packed, if not given. Codes are always uint8.
    max_shard_bytes, force, progress
        As in :func:`tqcli.pipeline.quantize.quantize`.

    Returns
    -------
    str
        The path by which the result is opened.
    """
    progress = serial(progress)
    specs: list[Spec] = []
    for name in ("token_ids", "positions"):
        if name in packed.stored:
            entry = packed.stored[name].entry
            specs.append((name, entry.dtype, entry.shape))
    copied = len(specs)
    for tensor in packed.tensors:
        specs.append((tensor.name, _dtype(tensor, domain, dtype), _shape(tensor, domain)))
    record = dump_record(packed.source, domain, __version__)
    for tensor in packed.tensors:
        record["tensors"][tensor.name] = {"decoded_from": [c.config() for c in tensor.codecs]}
    writer = ContainerWriter(path, specs, record, max_shard_bytes=max_shard_bytes, force=force)
    packed.require_apart(writer.replaced)
    with writer:
        for name, _, _ in specs[:copied]:
            writer.write(name, (piece for _, piece in packed.stored[name].pieces()))
        writer.write_all(
            (tensor.name, decoded(packed, tensor, domain, dtype, progress))
            for tensor in packed.tensors
        )
    return writer.result


def rows(
    packed: Packed, domain: DumpDomain = "original", dtype: DTypeLike | None = None
) -> list[dict[str, Any]]:
    """What :func:`unpack` writes: a row a tensor, with its types and sizes before and after."""
    found = []
    for tensor in packed.tensors:
        out = _dtype(tensor, domain, dtype)
        found.append(
            {
                "tensor": tensor.name,
                "decoded_from": tensor.types,
                "type": out.name,
                "bits_per_value": tensor.codecs[0].bits_per_value(tensor.head_dim),
                "values": math.prod(tensor.shape),
                "bytes_in": tensor.stored.entry.nbytes,
                "bytes_out": math.prod(_shape(tensor, domain)) * out.itemsize,
            }
        )
    return found


def decoded(
    packed: Packed,
    tensor: PackedTensor,
    domain: DumpDomain = "original",
    dtype: DTypeLike | None = None,
    progress: Progress = no_progress,
) -> Iterator[NDArray[Any]]:
    """Vectors of one tensor, decoded piece by piece: arrays of ``(n, head_dim)``."""
    out = _dtype(tensor, domain, dtype)
    where = f"{packed.path}: {tensor.name}"
    blocks_shape = tensor.stored.entry.shape[3:]

    def decode(codec: Codec, blocks: NDArray[np.uint8]) -> NDArray[Any]:
        if domain == "codes":
            return codec.codes(blocks)
        return codec.decode(blocks, tensor.head_dim, domain=domain, dtype=out)

    # Blocks unfold to several times their bytes.
    for first, piece in tensor.stored.pieces(axes=2, limit=PIECE_BYTES // 8):
        blocks = piece.reshape(-1, *blocks_shape)
        yield decode_piece(where, tensor.codecs, tensor.shape, first, blocks, decode)
        progress(piece.nbytes)


def _dtype(tensor: PackedTensor, domain: DumpDomain, dtype: DTypeLike | None) -> np.dtype[Any]:
    if domain == "codes":
        return np.dtype(np.uint8)
    return np.dtype(tensor.dtype if dtype is None else dtype)


def _shape(tensor: PackedTensor, domain: DumpDomain) -> tuple[int, ...]:
    if domain == "original":
        return tensor.shape
    return (*tensor.shape[:3], tensor.codecs[0].padded_dim(tensor.head_dim))
