"""Archives on disk, and the side data that they are read with.

A chunk is a tensor, so that the container's digest of it is the chunk's checksum: see "The file" in
docs/archive-format.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.archive.cache import CHUNK, Chunk, Stretch
from tqcli.archive.code import Code
from tqcli.errors import InputError
from tqcli.kv.checksum import require_checksum
from tqcli.kv.container import Container
from tqcli.kv.dump import EXTRAS, check_extra
from tqcli.kv.tensorfile import ALL_DTYPES

SCHEMA = "tq.archive/1"
CODE_SCHEMA = "tq.archive-code/1"
EMBEDDED = "code."  # in front of the names of side data that lies in the archive itself
_MOST_LAYERS = 65_536

Shape = tuple[int, int, int]  # num_kv_heads, k_dim, v_dim


class CodeFile(Container):
    """Side data in a file of its own.

    Parameters
    ----------
    path : str or path

    Attributes
    ----------
    code : Code

    Raises
    ------
    InputError
        If it is none, or is not whole.
    """

    dtypes = ALL_DTYPES

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        try:
            require_schema(self, CODE_SCHEMA, "side data of an archive")
            tensors = {name: stored.read() for name, stored in self.stored.items()}
            self.code = code_of(self.path, self.record.get("code"), tensors)
        except BaseException:
            self.close()
            raise

    @property
    def fingerprint(self) -> str:
        """The checksum of the file; archives name it."""
        return str(self.checksum)

    def __enter__(self) -> CodeFile:
        """The file itself."""
        return self


class ArchiveFile(Container):
    """An open archive.

    Parameters
    ----------
    path : str or path

    Attributes
    ----------
    source : dict
        Provenance, as in dumps.
    layers : list of int
        Numbers of the layers that it holds.
    shapes : list of (num_kv_heads, k_dim, v_dim)
        One a layer.
    tokens, keep_first : int
        Of the whole cache, and those at its start that are float16.
    dtype : str
        Of the values that were archived.
    places : list of (start, tokens, stretch)
        One a chunk.
    code_fingerprint : str or None
        Of the file of its side data; None if it holds that itself.

    Raises
    ------
    InputError
        If it is none, or its metadata and tensors do not agree.
    """

    dtypes = ALL_DTYPES

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        try:
            require_schema(self, SCHEMA, "an archive")
            self._read_record()
            self._check_tensors()
        except BaseException:
            self.close()
            raise

    def _read_record(self) -> None:
        record = self.record
        try:
            self.source = dict(record["source"])
            self.dtype = str(record["dtype"])
            self.layers = [_whole(n) for n in record["layers"]]
            self.shapes = [_shape(x) for x in record["shapes"]]
            self.tokens, self.keep_first = (_whole(record[n]) for n in ("tokens", "keep_first"))
            self.places = [_shape(x) for x in record["chunks"]]
            self.code_record: Mapping[str, Any] = dict(record["code"])
            fingerprint = self.code_record.get("fingerprint")
            where = f"{self.path}: fingerprint of the side data"
            self.code_fingerprint = (
                None if fingerprint is None else require_checksum(fingerprint, where)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.path}: metadata of an archive is missing ({error!r})"
            ) from error
        if len(self.layers) != len(self.shapes) or not 0 < len(self.layers) <= _MOST_LAYERS:
            raise InputError(
                f"{self.path}: {len(self.layers)} layers, shapes of {len(self.shapes)}"
            )
        at, last = self.keep_first, -1
        for start, tokens, stretch in self.places:
            if start != at or not 0 < tokens <= CHUNK or stretch not in (last, last + 1):
                raise InputError(f"{self.path}: chunks that do not follow one another")
            at, last = at + tokens, stretch
        if at != max(self.tokens, self.keep_first) or self.keep_first > self.tokens:
            raise InputError(f"{self.path}: chunks up to token {at} of {self.tokens}")
        self._stretches = last + 1

    def _check_tensors(self) -> None:
        values = sum(heads * (k + v) for heads, k, v in self.shapes)
        wanted = {f"chunks.{i}" for i in range(len(self.places))}
        wanted |= {f"tables.{i}" for i in range(self._stretches)} | {"first"}
        for name, stored in self.stored.items():
            if name in EXTRAS:
                check_extra(self.path, stored)
            elif name == "first":
                entry, legal = stored.entry, (self.keep_first, values)
                if entry.dtype != np.float16 or entry.shape != legal:
                    raise InputError(
                        f"{self.path}: first: {entry.dtype} {entry.shape}; float16 {legal} is "
                        "expected"
                    )
            elif name in wanted:
                if stored.entry.dtype != np.uint8 or len(stored.entry.shape) != 1:
                    raise InputError(f"{self.path}: {name}: uint8 of one axis is expected")
            elif self.code_fingerprint is not None or not name.startswith(EMBEDDED):
                raise InputError(f"{self.path}: unknown tensor {name!r} in an archive")
        if missing := wanted - set(self.stored):
            raise InputError(f"{self.path}: lacks {min(missing)}; the file is damaged")

    def code(self) -> Code | None:
        """The side data, if the archive holds it."""
        if self.code_fingerprint is not None:
            return None
        tensors = {
            name.removeprefix(EMBEDDED): stored.read()
            for name, stored in self.stored.items()
            if name.startswith(EMBEDDED)
        }
        return self.check(code_of(self.path, self.code_record, tensors))

    def check(self, code: Code, fingerprint: str | None = None) -> Code:
        """`code` if the archive was made with it.

        Raises
        ------
        InputError
            If it was made with another.
        """
        shapes = [(x.heads, x.k_mean.shape[1], x.v_mean.shape[1]) for x in code.layers]
        if fingerprint != self.code_fingerprint or shapes != self.shapes:
            raise InputError(
                f"{self.path}: made with other side data ({self.code_fingerprint}); give the file "
                "that it was made with"
            )
        return code

    def first(self) -> list[tuple[NDArray[np.float16], NDArray[np.float16]]]:
        """K after RoPE and V of the first tokens, ``(num_kv_heads, tokens, dim)``, by layer."""
        rows = self.stored["first"].read()
        out, at = [], 0
        for heads, k_dim, v_dim in self.shapes:
            pair = []
            for dim in (k_dim, v_dim):
                part = rows[:, at : at + heads * dim].reshape(-1, heads, dim)
                pair.append(part.transpose(1, 0, 2))
                at += heads * dim
            out.append((pair[0], pair[1]))
        return out

    def tables(self, stretch: int) -> NDArray[np.uint8]:
        """The packed tables of a stretch."""
        return self.stored[f"tables.{stretch}"].read()

    def chunk(self, number: int) -> Chunk:
        """One chunk; an error names its tokens.

        Raises
        ------
        InputError
            If its checksum does not hold.
        """
        start, tokens, _ = self.places[number]
        try:
            return Chunk(start, tokens, self.stored[f"chunks.{number}"].read())
        except InputError as error:
            raise InputError(f"tokens {start} to {start + tokens}: {error}") from error

    def stretches(self) -> Iterator[Stretch]:
        """Everything but the first tokens, a stretch at a time."""
        for own in range(self._stretches):
            numbers = [i for i, place in enumerate(self.places) if place[2] == own]
            yield Stretch(self.tables(own), [self.chunk(i) for i in numbers])

    def __enter__(self) -> ArchiveFile:
        """The archive itself."""
        return self


def require_schema(opened: Container, schema: str, what: str) -> None:
    """Refuse a container of another schema, or without checksums."""
    came = opened.record.get("schema")
    if came != schema:
        raise InputError(f"{opened.path}: schema {came!r}; {what} is {schema!r}")
    opened.require_checksums()


def code_of(path: str, record: Any, tensors: Mapping[str, NDArray[Any]]) -> Code:
    """Side data from what a file holds; errors name the file."""
    if not isinstance(record, Mapping):
        raise InputError(f"{path}: metadata lacks 'code'")
    try:
        return Code.from_tensors(record, tensors)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 40:
        raise ValueError(value)
    return value


def _shape(value: Any) -> Shape:
    first, second, third = value
    return _whole(first), _whole(second), _whole(third)
