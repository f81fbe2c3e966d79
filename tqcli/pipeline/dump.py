"""Any source into a dump, or into a packed cache where the source holds blocks already."""

from __future__ import annotations

import math
import os
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tqcli.codecs import codec
from tqcli.errors import InputError, UsageError
from tqcli.kv.container import ContainerWriter, Spec
from tqcli.kv.dump import dump_record
from tqcli.kv.packed import blocks_record, packed_record
from tqcli.pipeline.pieces import Progress, no_progress
from tqcli.sources.base import PackedSource, Source, SourceInfo, TensorSpec
from tqcli.version import __version__

_DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int32": np.dtype(np.int32),
}
_RULES = ("error", "zero")
_ROWS = 65_536  # vectors looked at together when values are checked


def write_dump(
    source: Source,
    path: str | os.PathLike[str],
    *,
    nonfinite: str = "error",
    max_shard_bytes: int | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> tuple[str, list[dict[str, Any]]]:
    """Write everything that a source yields into a dump.

    Parameters
    ----------
    source : Source
    path : str or path
        ``*.safetensors``.
    nonfinite : {"error", "zero"}
        What happens to NaN and infinities.
    max_shard_bytes : int, optional
    force : bool
        Replace existing files.
    progress : callable
        Called with the bytes written since the last call.

    Returns
    -------
    (str, list of dict)
        The path by which the dump is opened, and one row a tensor.

    Raises
    ------
    InputError
        On values that are not finite; nothing is written then.
    """
    if nonfinite not in _RULES:
        raise UsageError(f"--nonfinite {nonfinite}; legal here are {', '.join(_RULES)}")
    info = source.describe()
    record = dump_record(info.provenance, "original", __version__)
    for spec in info.tensors:
        if spec.stored and spec.stored != spec.dtype:
            record["tensors"][spec.name] = {"stored": spec.stored}
    specs = _specs(info)
    writer = ContainerWriter(path, specs, record, max_shard_bytes=max_shard_bytes, force=force)
    rows = []
    with writer:
        for spec, (name, values) in zip(info.tensors, source.tensors(), strict=True):
            zeroed = _clean(name, values, nonfinite)
            writer.write(name, [values])
            progress(values.nbytes)
            rows.append(_row(spec, values) | {"zeroed_values": zeroed})
    return writer.result, [row for row in rows if row["heads"] is not None]


def write_packed(
    source: PackedSource,
    path: str | os.PathLike[str],
    *,
    max_shard_bytes: int | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> tuple[str, list[dict[str, Any]]]:
    """Write the blocks that a source holds, untouched, into a packed cache.

    Parameters and results are those of :func:`write_dump`.
    """
    info = source.describe()
    by_name = {spec.name: spec for spec in info.tensors}
    record = packed_record(info.provenance, "original", None, __version__)
    specs: list[Spec] = []
    for name, codec_id, blocks in source.packed():  # a first pass for shapes and types only
        spec = by_name[name]
        specs.append((f"{name}.blocks", blocks.dtype, blocks.shape))
        made = [codec(codec_id, side=name[-1], head_dim=spec.shape[-1])]
        record["tensors"][f"{name}.blocks"] = blocks_record(made, spec.shape[-1], spec.dtype)
    if not specs:
        raise InputError(f"{os.fspath(path)}: the source holds no blocks; leave --packed out")
    writer = ContainerWriter(path, specs, record, max_shard_bytes=max_shard_bytes, force=force)
    rows = []
    with writer:
        for name, codec_id, blocks in source.packed():
            writer.write(f"{name}.blocks", [blocks])
            progress(blocks.nbytes)
            rows.append(_row(by_name[name], blocks) | {"type": codec_id})
    return writer.result, rows


def total_bytes(info: SourceInfo) -> int:
    """Bytes of all tensors as they are handed out."""
    return sum(math.prod(spec.shape) * _DTYPES[spec.dtype].itemsize for spec in info.tensors)


def _specs(info: SourceInfo) -> list[Spec]:
    return [(spec.name, _DTYPES[spec.dtype], spec.shape) for spec in info.tensors]


def _row(spec: TensorSpec, values: NDArray[Any]) -> dict[str, Any]:
    """What the table shows; tensors that are no K, V or Q have no heads."""
    is_vectors = len(spec.shape) == 4
    names = ("batch", "heads", "seq_len", "head_dim")
    shape = dict(zip(names, spec.shape if is_vectors else (None,) * 4, strict=True))
    return {"tensor": spec.name, "type": spec.dtype, **shape, "bytes": values.nbytes}


def _clean(name: str, values: NDArray[Any], rule: str) -> int:
    """Refuse or zero what is not finite; the number of values zeroed."""
    if values.dtype.kind == "i" or not values.size:
        return 0
    flat = values.reshape(-1, values.shape[-1])  # a view: what is zeroed is what is written
    zeroed = 0
    for first in range(0, flat.shape[0], _ROWS):
        piece = flat[first : first + _ROWS]
        bad = ~np.isfinite(piece)
        if not bad.any():
            continue
        if rule == "error":
            raise InputError(f"{name}: {_first_bad(values, first, bad)}; pass --nonfinite zero")
        piece[bad] = 0
        zeroed += int(bad.sum())
    return zeroed


def _first_bad(values: NDArray[Any], first: int, bad: NDArray[np.bool_]) -> str:
    row, dim = (int(axis[0]) for axis in np.nonzero(bad))
    place = np.unravel_index(first + row, values.shape[:-1])
    names = ("batch", "head", "token")[-len(place) :]
    where = " ".join(f"{n} {int(at)}" for n, at in zip(names, place, strict=False))
    return f"{int(bad.sum())} NaN or Inf values or more, first at {where} dim {dim}"
