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
from tqcli.jsonfile import parse_json, read_json
from tqcli.kv.atomic import require_distinct, require_new, write_text
from tqcli.kv.tensorfile import ALL_DTYPES, DTYPES, Entry, TensorFile
from tqcli.kv.writer import TensorWriter

INDEX_SUFFIX = ".index.json"
SUFFIX = ".safetensors"
PIECE_BYTES = 4 << 20  # read at a time: stays in cache, and small beside any tensor
_MAX_INDEX_BYTES = 64 << 20
_MAX_QUOTED = 80
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

    dtypes = DTYPES  # that its tensors may have

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        with ExitStack() as stack:
            homes = _read_index(self.path) if self.path.endswith(INDEX_SUFFIX) else {}
            paths = [str(Path(self.path).parent / name) for name in sorted(set(homes.values()))]
            self.files = [
                stack.enter_context(TensorFile(p, self.dtypes)) for p in paths or [self.path]
            ]
            self.record = _merge_records(self.path, self.files)
            self.stored = self._all_stored(self.record.get("tensors", {}))
            if homes:
                self._check_homes(homes)
            self._stack = stack.pop_all()

    def _all_stored(self, records: Mapping[str, Any]) -> dict[str, Stored]:
        """The tensors of all files by name, each with its record."""
        stored: dict[str, Stored] = {}
        for file in self.files:
            for name, entry in file.entries.items():
                if name in stored:
                    raise InputError(f"{self.path}: {name} stands in two shards")
                record = records.get(name, {})
                if not isinstance(record, dict):
                    raise InputError(f"{self.path}: {name}: metadata record is no object")
                promised = record.get("sha256")
                if promised is not None and not _is_sha256(promised):
                    raise InputError(
                        f"{self.path}: {name}: sha256 is {_short(promised)}; 64 hex digits are "
                        "legal"
                    )
                stored[name] = Stored(file, entry, record)
        if missing := set(records) - set(stored):
            raise InputError(f"{self.path}: metadata names {_short(min(missing))}, no such tensor")
        return stored

    def _check_homes(self, homes: Mapping[str, str]) -> None:
        """Every tensor lies in the shard that the index names, and no shard holds others."""
        for name in sorted(set(homes) | set(self.stored)):
            stored = self.stored.get(name)
            lies = None if stored is None else os.path.basename(stored.file.path)
            if lies != homes.get(name):
                raise InputError(
                    f"{self.path}: {_short(name)}: lies in {lies or 'no shard'}, the index says "
                    f"{homes.get(name, 'nothing of it')}; get all shards of one dump"
                )

    def require_apart(self, targets: Iterable[str | os.PathLike[str]]) -> None:
        """Refuse to write over any file of this container."""
        for target in targets:
            for source in (self.path, *(file.path for file in self.files)):
                require_distinct(source, target)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    def __enter__(self) -> Container:
        """The container itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all files."""
        self.close()


def schema_of(path: str | os.PathLike[str]) -> Any:
    """The schema that a file's metadata names, whatever kind it is; None if it names none."""
    where = os.fspath(path)
    if where.endswith(INDEX_SUFFIX):
        with Container(where) as opened:
            return opened.record.get("schema")
    with TensorFile(where, ALL_DTYPES) as file:
        return _record_of(file).get("schema")


def place_of(name: str, path: str) -> tuple[int, str]:
    """Layer and rest of a tensor name ``layers.{i}.{what}``."""
    match = _PLACE.fullmatch(name)
    if match is None:
        raise InputError(
            f"{path}: unknown tensor {name!r}; names are layers.N.k, .v, .q, token_ids"
        )
    return int(match["layer"]), match["what"]


def _read_index(path: str) -> dict[str, str]:
    """Shard of each tensor, as a shard index says it."""
    index = read_json(path, "a shard index", _MAX_INDEX_BYTES)
    homes = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(homes, dict) or not homes:
        raise InputError(
            f"{path}: no weight_map in the index; it maps names of tensors to files beside it"
        )
    for name, shard in homes.items():
        if not isinstance(shard, str) or Path(shard).name != shard or shard in ("", ".."):
            raise InputError(
                f"{path}: {_short(name)}: shard {_short(shard)} is not the name of a file beside "
                "the index"
            )
    return homes


def _merge_records(path: str, files: Sequence[TensorFile]) -> dict[str, Any]:
    """One record for all shards, whose tensors are the union; the rest must agree."""
    merged: dict[str, Any] | None = None
    for file in files:
        record = _record_of(file)
        if merged is None:
            merged = record
            continue
        tensors = {**merged.pop("tensors", {}), **record.pop("tensors", {})}
        if record != merged:
            raise InputError(f"{file.path}: metadata differs from the other shards of {path}")
        merged["tensors"] = tensors
    return merged or {}


def _record_of(file: TensorFile) -> dict[str, Any]:
    text = file.metadata.get("tq")
    if text is None:
        return {}
    where = f"{file.path}: metadata key 'tq'"
    record = parse_json(text, where, "one object")
    if not isinstance(record, dict):
        raise InputError(f"{where}: a JSON {type(record).__name__}; an object is legal")
    if not isinstance(record.get("tensors", {}), dict):
        raise InputError(f"{where}: 'tensors' is no object; it maps names to records")
    return record


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _short(value: object) -> str:
    """A foreign value for an error message, on one line and not endless."""
    text = repr(value)
    return text if len(text) <= _MAX_QUOTED else text[: _MAX_QUOTED - 3] + "..."


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
        self._fresh: list[str] = []  # files that were not there before

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
        self._fresh = [path for path in self.paths if not os.path.lexists(path)]
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
        try:
            self._stack.close()
            if self._sharded:
                write_text(self.result, self._index(), force=self._force)
        except BaseException:
            for path in self._fresh:  # some shards may be in place already
                Path(path).unlink(missing_ok=True)
            raise
        return None

    def _index(self) -> str:
        weight_map = {
            name: os.path.basename(path)
            for path, plan in zip(self.paths, self._plans, strict=True)
            for name, _, _ in plan
        }
        size = sum(_nbytes(spec) for plan in self._plans for spec in plan)
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        return json.dumps(index, sort_keys=True, indent=1) + "\n"


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
