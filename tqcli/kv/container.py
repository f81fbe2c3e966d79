"""What dumps and packed caches share: one file or shards of it, and one metadata record.

Metadata is sorted JSON in the single safetensors key ``tq``::

    {"schema": "tq.dump/1", "tq": "0.1.0", "source": {...}, "tensors": {NAME: {"sha256": ...}}, ...}

Shards follow the Hugging Face convention (``name-00001-of-00004.safetensors`` and
``name.safetensors.index.json``); each shard carries the record of its own tensors.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError, UsageError
from tqcli.kv.atomic import require_new, write_text
from tqcli.kv.tensorfile import Entry, TensorFile
from tqcli.kv.writer import TensorWriter

INDEX_SUFFIX = ".index.json"
SUFFIX = ".safetensors"
PIECE_BYTES = 4 << 20  # read at a time: stays in cache, and small beside any tensor
_MAX_INDEX_BYTES = 64 << 20
_PLACE = re.compile(r"layers\.(?P<layer>0|[1-9][0-9]{0,5})\.(?P<what>[a-z_.]+)")

Spec = tuple[str, np.dtype[Any], tuple[int, ...]]


@dataclass(frozen=True)
class Stored:
    """One tensor of an open container: its entry, the file it lies in, its metadata record."""

    file: TensorFile
    entry: Entry
    record: Mapping[str, Any]

    @property
    def sha256(self) -> str | None:
        """The hash that the metadata promises, if it does."""
        return self.record.get("sha256")

    def pieces(self, axes: int = 1, limit: int = PIECE_BYTES) -> Iterator[tuple[int, NDArray[Any]]]:
        """Vectors (the last `axes` axes) piece by piece, checked against the hash at the end.

        Yields ``(flat index of the first vector, array (n, values of a vector))``.
        """
        return self.file.chunks(self.entry, axes, limit, self.sha256)

    def read(self) -> NDArray[Any]:
        """The whole tensor."""
        whole = np.empty(self.entry.shape, self.entry.dtype)
        rows = whole.reshape(-1, self.entry.shape[-1]) if whole.size else whole
        for first, piece in self.pieces():
            rows[first : first + piece.shape[0]] = piece
        return whole


class Container:
    """Open files with one record; closes them all."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        with ExitStack() as stack:
            self.files = [stack.enter_context(TensorFile(p)) for p in _shard_paths(self.path)]
            self.record = _merge_records(self.path, self.files)
            records = self.record.get("tensors", {})
            if not isinstance(records, dict):
                raise InputError(f"{self.path}: metadata key 'tensors' is no object")
            self.stored: dict[str, Stored] = {}
            for file in self.files:
                for name, entry in file.entries.items():
                    if name in self.stored:
                        raise InputError(f"{self.path}: {name} stands in two shards")
                    record = records.get(name, {})
                    if not isinstance(record, dict):
                        raise InputError(f"{self.path}: {name}: metadata record is no object")
                    self.stored[name] = Stored(file, entry, record)
            if missing := set(records) - set(self.stored):
                raise InputError(
                    f"{self.path}: metadata names {sorted(missing)[0]}, no such tensor"
                )
            self._stack = stack.pop_all()

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all files."""
        self.close()


def place_of(name: str, path: str) -> tuple[int, str]:
    """Layer and rest of a tensor name ``layers.{i}.{what}``."""
    match = _PLACE.fullmatch(name)
    if match is None:
        raise InputError(
            f"{path}: unknown tensor {name!r}; names are layers.N.k, .v, .q, token_ids"
        )
    return int(match["layer"]), match["what"]


def _shard_paths(path: str) -> list[str]:
    if not path.endswith(INDEX_SUFFIX):
        return [path]
    try:
        if not Path(path).is_file() or Path(path).stat().st_size > _MAX_INDEX_BYTES:
            raise InputError(f"{path}: not a regular file of at most {_MAX_INDEX_BYTES} bytes")
        index = json.loads(Path(path).read_text(encoding="utf-8"))
        names = sorted({str(name) for name in index["weight_map"].values()})
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no shard index ({error!r}); it maps names to files") from error
    for name in names:
        if Path(name).name != name:
            raise InputError(f"{path}: shard {name!r} is not a plain file name beside the index")
    if not names:
        raise InputError(f"{path}: the index names no shard")
    return [str(Path(path).parent / name) for name in names]


def _merge_records(path: str, files: Sequence[TensorFile]) -> dict[str, Any]:
    """One record for all shards, whose tensors are the union; the rest must agree."""
    merged: dict[str, Any] | None = None
    for file in files:
        text = file.metadata.get("tq")
        try:
            record = json.loads(text) if text is not None else {}
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file.path}: metadata key 'tq' is not JSON ({error})") from error
        if not isinstance(record, dict):
            raise InputError(f"{file.path}: metadata key 'tq' is no JSON object")
        if merged is None:
            merged = record
            continue
        own, theirs = dict(record), dict(merged)
        tensors = {**(theirs.pop("tensors", None) or {}), **(own.pop("tensors", None) or {})}
        if own != theirs:
            raise InputError(f"{file.path}: metadata differs from the other shards of {path}")
        merged = {**theirs, "tensors": tensors}
    return merged or {}


class ContainerWriter:
    """Write tensors in order into one file or shards.

    Parameters
    ----------
    path : str or path
        ``*.safetensors``. Sharded, it names the family, and the index is written beside it.
    specs : sequence of (name, dtype, shape)
    record : mapping
        The metadata, with a record for each tensor under ``tensors``; hashes are added here.
    max_shard_bytes : int, optional
        Start a new shard before this many bytes of data; a tensor is never cut.
    force : bool
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        specs: Sequence[Spec],
        record: Mapping[str, Any],
        *,
        max_shard_bytes: int | None = None,
        force: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        if not self.path.endswith(SUFFIX):
            raise UsageError(f"{self.path}: name the output *{SUFFIX}")
        self._record, self._force = record, force
        self._plans = _plan(specs, max_shard_bytes)
        self._sharded = len(self._plans) > 1
        self.paths = [self._shard_path(i) for i in range(len(self._plans))]

    def _shard_path(self, index: int) -> str:
        if not self._sharded:
            return self.path
        stem = self.path[: -len(SUFFIX)]
        return f"{stem}-{index + 1:05d}-of-{len(self._plans):05d}{SUFFIX}"

    @property
    def result(self) -> str:
        """The path by which the finished container is opened."""
        return self.path + INDEX_SUFFIX if self._sharded else self.path

    def __enter__(self) -> ContainerWriter:
        """Check the targets and open the temporary files."""
        if self._sharded:
            require_new(self.result, force=self._force)
        with ExitStack() as stack:
            self._home: dict[str, TensorWriter] = {}
            for path, plan in zip(self.paths, self._plans, strict=True):
                writer = TensorWriter(path, plan, self._describe(plan), force=self._force)
                stack.enter_context(writer)
                self._home |= dict.fromkeys((name for name, _, _ in plan), writer)
            self._stack = stack.pop_all()
        return self

    def _describe(self, plan: Sequence[Spec]) -> Any:
        records = self._record["tensors"]

        def text(hashes: Mapping[str, str]) -> str:
            tensors = {
                name: records.get(name, {}) | {"sha256": hashes[name]} for name, _, _ in plan
            }
            return json.dumps(
                {**self._record, "tensors": tensors}, sort_keys=True, separators=(",", ":")
            )

        return text

    def write(self, name: str, pieces: Iterable[NDArray[Any]]) -> None:
        """Write the next tensor from pieces in order."""
        self._home[name].write(name, pieces)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Put the files in place, the index last; on an error, leave nothing."""
        if error is not None:
            return self._stack.__exit__(kind, error, trace)
        self._stack.close()
        if self._sharded:
            weight_map = {
                name: os.path.basename(path)
                for path, plan in zip(self.paths, self._plans, strict=True)
                for name, _, _ in plan
            }
            size = sum(_nbytes(spec) for plan in self._plans for spec in plan)
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            text = json.dumps(index, sort_keys=True, indent=1) + "\n"
            write_text(self.result, text, force=self._force)
        return None


def _nbytes(spec: Spec) -> int:
    return int(np.prod(spec[2], dtype=object)) * spec[1].itemsize


def _plan(specs: Sequence[Spec], limit: int | None) -> list[list[Spec]]:
    plans: list[list[Spec]] = [[]]
    room = limit
    for spec in specs:
        size = _nbytes(spec)
        if room is not None and plans[-1] and size > room:
            plans.append([])
            room = limit
        plans[-1].append(spec)
        room = None if room is None else room - size
    return plans
