"""What dumps and packed caches share: one file or shards of it, and one metadata record.

Metadata is sorted JSON in the single safetensors key ``tq``::

    {"schema": "tq.dump/2", "checksum": "blake3:...", "tq": "0.1.0", "source": {...},
     "tensors": {NAME: {"digest": "blake3:...", ...}, ...}, ...}

Shards follow the Hugging Face convention (``name-TAG-00001-of-00004.safetensors`` and
``name.safetensors.index.json``); each shard carries the record of its own tensors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli import workers
from tqcli.errors import InputError, UsageError, quoted
from tqcli.jsonfile import parse_json
from tqcli.kernels import choose
from tqcli.kv import checksum
from tqcli.kv.atomic import require_distinct, require_new
from tqcli.kv.shards import INDEX_SUFFIX, SUFFIX, Index, old_shards, place_shards, read_index
from tqcli.kv.tensorfile import ALL_DTYPES, DTYPE_NAMES, DTYPES, Entry, TensorFile
from tqcli.kv.writer import Spec, TensorWriter, nbytes

__all__ = ["INDEX_SUFFIX", "SUFFIX", "Container", "ContainerWriter", "Spec", "Stored", "place_of"]

# Read at a time: large enough that threads seldom wait for the GIL, small beside any tensor.
PIECE_BYTES = 4 << 20
# Tensors written at once, each with a piece or two in memory; more would wait for memory anyway.
MAX_WRITERS = 16
_PLACE = re.compile(r"layers\.(?P<layer>0|[1-9][0-9]{0,5})\.(?P<what>[a-z_.]+)")


@dataclass(frozen=True)
class Stored:
    """One tensor of an open container: its entry, the file it lies in, its metadata record."""

    file: TensorFile
    entry: Entry
    record: Mapping[str, Any]

    def __repr__(self) -> str:
        """``<stored layers.3.k: float16 (1, 2, 256, 128)>``."""
        return f"<stored {self.entry.name}: {self.entry.dtype.name} {self.entry.shape}>"

    @property
    def digest(self) -> str | None:
        """The checksum of the data that the metadata promises, if it does."""
        if "digest" in self.record:
            return str(self.record["digest"])
        first = self.record.get("sha256")  # schema version 1
        return None if first is None else f"{checksum.FIRST_HASH}:{first}"

    def pieces(self, axes: int = 1, limit: int = PIECE_BYTES) -> Iterator[tuple[int, NDArray[Any]]]:
        """Vectors (the last `axes` axes) piece by piece, checked against the digest at the end.

        Yields ``(flat index of the first vector, array (n, values of a vector))``; the array is
        overwritten when the next is asked for. Several threads may read, each its own tensor.
        """
        return self.file.chunks(self.entry, axes, limit, self.digest)

    def read(self) -> NDArray[Any]:
        """The whole tensor."""
        whole = np.empty(self.entry.shape, self.entry.dtype)
        rows = whole.reshape(-1, self.entry.shape[-1]) if whole.size else whole
        for first, piece in self.pieces():
            rows[first : first + piece.shape[0]] = piece
        return whole


class Container:
    """Open files with one record; closes them all.

    Attributes
    ----------
    record : dict
        The metadata, without the checksum of the header.
    checksum : str or None
        Of the header, or of the headers of all shards; None where the file has none.
    """

    dtypes = DTYPES  # that its tensors may have

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        with ExitStack() as stack:
            index = read_index(self.path) if self.path.endswith(INDEX_SUFFIX) else None
            names = [] if index is None else index.shards
            paths = [str(Path(self.path).parent / name) for name in names]
            self.files = [
                stack.enter_context(TensorFile(p, self.dtypes)) for p in paths or [self.path]
            ]
            records = [_record_of(file) for file in self.files]
            sums = [_check_header(*pair) for pair in zip(self.files, records, strict=True)]
            self.record = _merge_records(self.path, self.files, records)
            self.stored = self._all_stored(self.record.get("tensors", {}))
            self.checksum = sums[0] if index is None else self._check_index(index, sums)
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
                stored[name] = Stored(file, entry, record)
                if (promised := stored[name].digest) is not None:
                    checksum.require_checksum(promised, f"{self.path}: {name}: digest")
        if missing := set(records) - set(stored):
            raise InputError(f"{self.path}: metadata names {quoted(min(missing))}, no such tensor")
        return stored

    def _check_index(self, index: Index, sums: Sequence[str | None]) -> str | None:
        """The checksum of all shards; they must hold what the index says, and be its own."""
        self._check_homes(index.homes)
        known = [own for own in sums if own is not None]
        whole = checksum.of_parts(known) if len(known) == len(sums) else None
        if index.checksum not in (None, whole):
            raise InputError(
                f"{self.path}: the shards are not those that the index was written for; get all "
                "shards of one dump"
            )
        return whole

    def _check_homes(self, homes: Mapping[str, str]) -> None:
        """Every tensor lies in the shard that the index names, and no shard holds others."""
        for name in sorted(set(homes) | set(self.stored)):
            stored = self.stored.get(name)
            lies = None if stored is None else os.path.basename(stored.file.path)
            if lies != homes.get(name):
                raise InputError(
                    f"{self.path}: {quoted(name)}: lies in {lies or 'no shard'}, the index says "
                    f"{homes.get(name, 'nothing of it')}; get all shards of one dump"
                )

    def require_checksums(self) -> None:
        """Refuse a container without a checksum of its header and of every tensor.

        Schema version 2 has them all; version 1 and plain arrays need not.
        """
        lacking = [name for name, stored in self.stored.items() if stored.digest is None]
        if self.checksum is None or lacking:
            what = f"a digest of {quoted(lacking[0])}" if lacking else "its checksum"
            raise InputError(f"{self.path}: metadata lacks {what}; the file is damaged")

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


def _check_header(file: TensorFile, record: dict[str, Any]) -> str | None:
    """Take the checksum out of a record, and refuse a header that does not have it."""
    promised = record.pop("checksum", None)
    if promised is None:
        return None
    where = f"{file.path}: checksum"
    name = checksum.name_of(checksum.require_checksum(promised, where))
    blank = file.metadata["tq"].replace(promised, checksum.zeros(name))
    entries = ((e.name, DTYPE_NAMES[e.dtype], e.shape) for e in file.entries.values())
    if (came := checksum.of_header(blank, entries, name)) != promised:
        raise InputError(
            f"{where} is {came[:24]}..., the metadata says {promised[:24]}...; the metadata or "
            "the names, types and shapes of the tensors were changed, make the file anew"
        )
    return str(promised)


def _merge_records(
    path: str, files: Sequence[TensorFile], records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """One record for all shards, whose tensors are the union; the rest must agree."""
    merged = records[0]
    for file, record in zip(files[1:], records[1:], strict=True):
        tensors = {**merged.pop("tensors", {}), **record.pop("tensors", {})}
        if record != merged:
            raise InputError(f"{file.path}: metadata differs from the other shards of {path}")
        merged["tensors"] = tensors
    return merged


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


class ContainerWriter:
    """Write tensors into one file or shards.

    Parameters
    ----------
    path : str or path
        ``*.safetensors``. Sharded, it names the family, and the index is written beside it.
    specs : sequence of (name, dtype, shape)
    record : mapping
        The metadata, with a record for each tensor under ``tensors``; checksums are added.
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

    @property
    def result(self) -> str:
        """The path by which the finished container is opened."""
        return self.path + INDEX_SUFFIX if self._sharded else self.path

    @property
    def replaced(self) -> list[str]:
        """Every file that will be written over or removed, there or not."""
        return [self.result, *map(str, old_shards(self.result) if self._sharded else ())]

    def __enter__(self) -> ContainerWriter:
        """Check the target and open the temporary files."""
        require_new(self.result, force=self._force)
        with ExitStack() as stack:
            self._writers = [
                stack.enter_context(TensorWriter(self.path, plan, self._record))
                for plan in self._plans
            ]
            self._stack = stack.pop_all()
        self._home = {
            name: writer
            for writer, plan in zip(self._writers, self._plans, strict=True)
            for name, _, _ in plan
        }
        return self

    def write(self, name: str, pieces: Iterable[NDArray[Any]]) -> None:
        """Write one tensor, from contiguous arrays that follow one another."""
        self._home[name].write(name, pieces)

    def write_all(self, tensors: Iterable[tuple[str, Iterable[NDArray[Any]]]]) -> None:
        """Write several tensors at once, each on a thread that takes its pieces one by one.

        So making the pieces (reading, coding), hashing and writing them overlap. The file does
        not depend on the number of threads.
        """
        threads = min(choose.threads(), MAX_WRITERS)
        if threads > 1:
            threads += 1  # there is work for a core while one thread waits for disk or GIL
        jobs: list[Callable[[], None]] = [
            partial(self.write, name, pieces) for name, pieces in tensors
        ]
        workers.run(jobs, threads)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the files in place, the index last; on an error, leave nothing."""
        with self._stack:
            if error is not None:
                return
            if not self._sharded:
                self._writers[0].finish()
                self._writers[0].place(self.path)
                return
            place_shards(
                self.result,
                self._writers,
                [[name for name, _, _ in plan] for plan in self._plans],
                total_size=sum(nbytes(spec) for plan in self._plans for spec in plan),
                force=self._force,
            )


def _plan(specs: Sequence[Spec], limit: int | None) -> list[list[Spec]]:
    plans: list[list[Spec]] = [[]]
    room = limit
    for spec in specs:
        size = nbytes(spec)
        if room is not None and plans[-1] and size > room:
            plans.append([])
            room = limit
        plans[-1].append(spec)
        room = None if room is None else room - size
    return plans
