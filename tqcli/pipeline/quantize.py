"""Dump in, packed cache out: the exact bytes that an engine would hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.codecs import Codec
from tqcli.errors import InputError
from tqcli.kv.container import ContainerWriter, Spec
from tqcli.kv.dump import Dump, KVTensor
from tqcli.kv.packed import blocks_record, packed_record
from tqcli.pipeline.cachetype import CacheType
from tqcli.pipeline.pieces import Cleaner, Nonfinite, Progress, encode_piece, no_progress
from tqcli.version import __version__
from tqcli.workers import serial


def quantize(
    dump: Dump,
    path: str | os.PathLike[str],
    k: CacheType,
    v: CacheType,
    *,
    nonfinite: Nonfinite = "error",
    max_shard_bytes: int | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> tuple[str, list[dict[str, Any]]]:
    """Encode K and V of a dump into a packed cache.

    Parameters
    ----------
    dump : Dump
        In the original domain.
    path : str or path
        ``*.safetensors``.
    k, v : CacheType
    nonfinite : {"error", "zero", "skip"}
    max_shard_bytes : int, optional
    force : bool
        Replace existing files.
    progress : callable
        Called with the bytes read since the last call.

    Returns
    -------
    (str, list of dict)
        The path by which the result is opened, and one row a tensor: name, type, bytes before and
        after, bits per value, vectors that vanished, values zeroed, vectors skipped.

    Raises
    ------
    InputError
        On values that the format cannot hold; nothing is written then.
    """
    if dump.domain != "original":
        raise InputError(f"{dump.path}: {dump.domain} domain; only an original dump is quantized")
    plan = [(t, (k if t.side == "k" else v).codecs_for(t)) for t in dump.kv()]
    record = packed_record(dump.source, dump.domain, dump.fingerprint(), __version__)
    specs: list[Spec] = []
    for name in ("token_ids", "positions"):
        if name in dump.stored:
            entry = dump.stored[name].entry
            specs.append((name, entry.dtype, entry.shape))
    for tensor, made in plan:
        batch, heads, seq_len, head_dim = tensor.shape
        blocks = f"{tensor.name}.blocks"
        shape = (batch, heads, seq_len, *made[0].blocks_shape(head_dim))
        specs.append((blocks, np.dtype(np.uint8), shape))
        record["tensors"][blocks] = blocks_record(made, head_dim, tensor.dtype.name)
    writer = ContainerWriter(path, specs, record, max_shard_bytes=max_shard_bytes, force=force)
    dump.require_apart(writer.replaced)
    one = serial(progress)
    jobs = [_Encoding(dump, tensor, made, Cleaner(nonfinite), one) for tensor, made in plan]
    with writer:
        for name, _, _ in specs[: len(specs) - len(plan)]:
            writer.write(name, (piece for _, piece in dump.stored[name].pieces()))
        writer.write_all((f"{job.tensor.name}.blocks", job.pieces()) for job in jobs)
    return writer.result, [job.row() for job in jobs]


class _Encoding:
    """One tensor on its way, and what was met on it."""

    def __init__(
        self,
        dump: Dump,
        tensor: KVTensor,
        made: tuple[Codec, ...],
        cleaner: Cleaner,
        progress: Progress,
    ) -> None:
        self.dump, self.tensor, self.codecs = dump, tensor, made
        self.cleaner, self.progress = cleaner, progress
        self.bytes_out = self.vanished = 0

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """Blocks in order."""
        for first, piece in self.tensor.stored.pieces():
            cleaned, _ = self.cleaner.clean(piece)
            blocks = encode_piece(self.dump, self.tensor, self.codecs, first, cleaned)
            self.bytes_out += blocks.nbytes
            self.vanished += self.codecs[0].vanished(cleaned, blocks)
            self.progress(piece.nbytes)
            yield blocks

    def row(self) -> dict[str, Any]:
        """What the report says of this tensor."""
        values = self.tensor.stored.entry.nbytes // self.tensor.dtype.itemsize
        return {
            "tensor": self.tensor.name,
            "type": self.codecs[0].id,
            "values": values,
            "bytes_in": self.tensor.stored.entry.nbytes,
            "bytes_out": self.bytes_out,
            "bits_per_value": 8 * self.bytes_out / values if values else None,
            "vanished_vectors": self.vanished,
            "zeroed_values": self.cleaner.zeroed,
            "skipped_vectors": self.cleaner.skipped,
        }
