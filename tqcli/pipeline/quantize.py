"""Dump in, packed cache out: the exact bytes that an engine would hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.kv.container import ContainerWriter, Spec
from tqcli.kv.dump import Dump, KVTensor
from tqcli.kv.packed import blocks_record, packed_record
from tqcli.pipeline.pieces import Cleaner, Nonfinite, Progress, no_progress
from tqcli.pipeline.sides import Sides
from tqcli.plan.bits import LENGTHS, SideShape, bits_per_value
from tqcli.plan.plan import Plan
from tqcli.plan.side import SidePlan
from tqcli.plan.tokens import Tokens
from tqcli.version import __version__
from tqcli.workers import serial


def quantize(
    dump: Dump,
    path: str | os.PathLike[str],
    plan: Plan,
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
    plan : Plan
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
        after, bits per value here and at other lengths, vectors that vanished, values zeroed,
        vectors skipped.

    Raises
    ------
    UsageError
        The plan names layers that the dump lacks.
    InputError
        On values that the format cannot hold; nothing is written then.
    """
    if dump.domain != "original":
        raise InputError(f"{dump.path}: {dump.domain} domain; only an original dump is quantized")
    plan.check_layers({tensor.layer for tensor in dump.kv()}, dump.path)
    sides, one = Sides(dump, nonfinite), serial(progress)
    jobs = [
        _Encoding(plan, tensor, *sides.of(plan, tensor), Cleaner(nonfinite), one)
        for tensor in dump.kv()
    ]
    specs: list[Spec] = []
    for name in ("token_ids", "positions"):
        if name in dump.stored:
            entry = dump.stored[name].entry
            specs.append((name, entry.dtype, entry.shape))
    copied = len(specs)
    fingerprint = dump.fingerprint()
    record = packed_record(dump.source, dump.domain, fingerprint, __version__, plan.record())
    for job in jobs:
        specs += job.specs()
        record["tensors"][f"{job.tensor.name}.blocks"] = job.record()
    writer = ContainerWriter(path, specs, record, max_shard_bytes=max_shard_bytes, force=force)
    dump.require_apart(writer.replaced)
    with writer:
        for name, _, _ in specs[:copied]:
            writer.write(name, (piece for _, piece in dump.stored[name].pieces()))
        writer.write_all((f"{job.tensor.name}.blocks", job.pieces()) for job in jobs)
        for job in jobs:
            for name, values in job.beside():
                writer.write(name, values)
    return writer.result, [job.row() for job in jobs]


class _Encoding:
    """One tensor on its way, and what was met on it."""

    def __init__(
        self,
        plan: Plan,
        tensor: KVTensor,
        side: SidePlan,
        tokens: Tokens,
        cleaner: Cleaner,
        progress: Progress,
    ) -> None:
        self.plan, self.tensor, self.side, self.tokens = plan, tensor, side, tokens
        self.cleaner, self.progress = cleaner, progress
        self._kept: list[NDArray[np.float16]] = []
        self.vanished = 0

    def specs(self) -> list[Spec]:
        """The tensors that it becomes: blocks, and where there are any kept tokens and a mean."""
        name, (batch, heads, seq_len, head_dim) = self.tensor.name, self.tensor.shape
        kept = sum(stop - first for first, stop in self.side.kept(self.tokens))
        blocks = (batch, heads, seq_len - kept, *self.side.codecs.blocks_shape(head_dim))
        specs: list[Spec] = [(f"{name}.blocks", np.dtype(np.uint8), blocks)]
        half = np.dtype(np.float16)
        if any(self.side.keep):
            specs.append((f"{name}.kept", half, (batch, heads, kept, head_dim)))
        if self.side.center is not None:
            specs.append((f"{name}.mean", half, (heads, head_dim)))
        return specs

    def record(self) -> dict[str, Any]:
        """What the file says of the blocks."""
        record = blocks_record(self.side.codecs, self.tensor.shape[3], self.tensor.dtype.name)
        record["type"] = self.side.label
        if any(self.side.keep):
            record["keep"] = list(self.side.keep)
        if (center := self.side.center) is not None:
            rope = None if center.rope is None else center.rope.to_json()
            record["center"] = {"rope": rope, "origin": center.origin}
        return record

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """Blocks in order."""
        for first, piece in self.tensor.stored.pieces():
            cleaned, _ = self.cleaner.clean(piece)
            coded = self.side.encode(first, cleaned, self.tokens)
            self.vanished += coded.vanished
            if len(coded.kept):
                self._kept.append(coded.kept)
            self.progress(piece.nbytes)
            yield coded.blocks

    def beside(self) -> Iterator[tuple[str, list[NDArray[np.float16]]]]:
        """Kept tokens and the mean, once all blocks were taken."""
        if any(self.side.keep):
            yield f"{self.tensor.name}.kept", self._kept
        if self.side.center is not None:
            yield f"{self.tensor.name}.mean", [self.side.center.mean]

    def row(self) -> dict[str, Any]:
        """What the report says of this tensor."""
        entry, (_, heads, _, head_dim) = self.tensor.stored.entry, self.tensor.shape
        values = entry.nbytes // self.tensor.dtype.itemsize
        size = sum(int(np.prod(shape)) * dtype.itemsize for _, dtype, shape in self.specs())
        shape = SideShape(
            self.tensor.layer, "k" if self.tensor.side == "k" else "v", heads, head_dim
        )
        bits = [bits_per_value(self.plan, [shape], length) for length in LENGTHS]
        return {
            "tensor": self.tensor.name,
            "type": self.side.label,
            "mean": None if self.side.center is None else str(self.side.center),
            "values": values,
            "bytes_in": entry.nbytes,
            "bytes_out": size,
            "bits_per_value": 8 * size / values if values else None,
            **dict(zip(("bits_1k", "bits_8k", "bits_128k"), bits, strict=True)),
            "vanished_vectors": self.vanished,
            "zeroed_values": self.cleaner.zeroed,
            "skipped_vectors": self.cleaner.skipped,
        }
