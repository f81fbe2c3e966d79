"""Reading one safetensors file: everything is checked before anything is trusted.

The `safetensors` library judges the header (overlaps, holes, overflow, sizes). Data is then read
with plain reads, never through its memory map: memory stays what the caller asks for, and a file
that shrinks meanwhile is a short read and not a crash.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from numpy.typing import NDArray

from tqcli import workers
from tqcli.errors import InputError
from tqcli.jsonfile import require_modest
from tqcli.kv.checksum import Digest, name_of
from tqcli.kv.positional import read_at

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U8": np.dtype("u1"),
    "I32": np.dtype("<i4"),
}
# Sums of a calibration are float64; no other file is.
ALL_DTYPES = {**DTYPES, "F64": np.dtype("<f8")}
DTYPE_NAMES = {dtype: name for name, dtype in ALL_DTYPES.items()}
# About 100 bytes a tensor: room for 65,536 of them and their metadata.
MAX_HEADER = 32 << 20
MAX_TENSORS = 65_536
MAX_NAME = 256
_QUOTED = 40  # of a foreign name in an error message
LENGTH_BYTES = 8


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies.

    ``offset`` counts bytes from the start of the file.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


class TensorFile:
    """An open safetensors file.

    Parameters
    ----------
    path : str or path
    dtypes : mapping of str to dtype
        Those that may occur, by their names in the header.

    Raises
    ------
    InputError
        If the file is no readable, whole, well-formed safetensors file.
    """

    def __init__(
        self, path: str | os.PathLike[str], dtypes: Mapping[str, np.dtype[Any]] = DTYPES
    ) -> None:
        self.path, self._dtypes = os.fspath(path), dtypes
        self._file = _open_regular(self.path)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.header_bytes = self._header_length()
            self._check_names()
            self.entries, self.metadata = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _header_length(self) -> int:
        if self.size < LENGTH_BYTES:
            raise InputError(
                f"{self.path}: {self.size} bytes; a safetensors file has at least {LENGTH_BYTES}"
            )
        length = int.from_bytes(self._file.read(LENGTH_BYTES), "little")
        if length > self.size - LENGTH_BYTES:
            raise InputError(
                f"{self.path}: header of {length} bytes in a file of {self.size}; "
                "not a safetensors file, or a truncated one"
            )
        if length > MAX_HEADER:
            raise InputError(
                f"{self.path}: header of {length} bytes; at most {MAX_HEADER} are read"
            )
        return length

    def _check_names(self) -> None:
        # The library keeps the last of two tensors with one name; a reader must not choose.
        # Objects become None here, so that a long header costs little more than its names.
        def pairs(items: list[tuple[str, Any]]) -> None:
            if len(items) > MAX_TENSORS + 1:
                raise InputError(
                    f"{self.path}: {len(items)} tensors; at most {MAX_TENSORS} are read"
                )
            seen: set[str] = set()
            for key, _ in items:
                if key in seen:
                    raise InputError(f"{self.path}: name {key[:_QUOTED]!r} occurs twice")
                seen.add(key)
                if not key.isprintable() or ".." in key or len(key) > MAX_NAME:
                    raise InputError(
                        f"{self.path}: name {key[:_QUOTED]!r} in the header; printable names "
                        f"of at most {MAX_NAME} characters without '..' are legal"
                    )

        try:
            text = self._file.read(self.header_bytes)
            require_modest(text)
            json.loads(text, object_pairs_hook=pairs)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{self.path}: header is not JSON ({error}); not a safetensors file"
            ) from error

    def _read_header(self) -> tuple[dict[str, Entry], dict[str, str]]:
        entries: dict[str, Entry] = {}
        offset = LENGTH_BYTES + self.header_bytes
        try:
            with safetensors.safe_open(self.path, framework="np") as opened:
                for name in opened.offset_keys():
                    part = opened.get_slice(name)
                    dtype = self._dtypes.get(str(part.get_dtype()))
                    if dtype is None:
                        raise InputError(
                            f"{self.path}: {name}: dtype {part.get_dtype()}; "
                            f"{', '.join(self._dtypes)} are legal"
                        )
                    entry = Entry(name, dtype, tuple(part.get_shape()), offset)
                    entries[name] = entry
                    offset += entry.nbytes
                metadata = dict(opened.metadata() or {})
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(f"{self.path}: not a safetensors file ({error})") from error
        return entries, metadata

    def read(self, entry: Entry, start: int, out: NDArray[Any]) -> None:
        """Fill the contiguous array `out` with the data of `entry` from its byte `start` on.

        Threads may read at the same time.
        """
        view = out.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            try:
                got = read_at(self._file, view[done:], entry.offset + start + done)
            except OSError as error:
                raise InputError(
                    f"{self.path}: {entry.name}: cannot be read ({error.strerror})"
                ) from error
            if not got:
                raise InputError(
                    f"{self.path}: {entry.name}: the file ended {len(view) - done} bytes early; "
                    "it changed while it was read"
                )
            done += got

    def chunks(
        self, entry: Entry, axes: int, limit: int, checksum: str | None = None
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """The tensor as vectors, piece by piece.

        Parameters
        ----------
        entry : Entry
        axes : int
            How many of the last axes make one vector.
        limit : int
            Bytes of one piece; at least one vector comes.
        checksum : str, optional
            Compared once the last piece was taken.

        Yields
        ------
        (first, vectors)
            Flat index of the first vector, and an array ``(n, values)`` that is overwritten when
            the next is asked for.
        """
        width = int(np.prod(entry.shape[-axes:], dtype=object)) if entry.shape else 1
        vectors = entry.nbytes // max(width * entry.dtype.itemsize, 1)
        step = max(limit // max(width * entry.dtype.itemsize, 1), 1)
        # One buffer for all pieces: fresh pages would cost as much as reading into them.
        buffer = np.empty((min(step, vectors), width), entry.dtype)
        digest = None if checksum is None else Digest(name_of(checksum))
        for first in range(0, vectors, step):
            workers.check()
            piece = buffer[: vectors - first]
            self.read(entry, first * width * entry.dtype.itemsize, piece)
            if digest is not None:
                digest.update(piece)
            yield first, piece
        if digest and checksum and (came := digest.checksum()) != checksum:
            raise InputError(
                f"{self.path}: {entry.name}: checksum is {came[:24]}..., the metadata says "
                f"{checksum[:24]}...; the file is damaged, make it anew"
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> TensorFile:
        """The file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()


def _open_regular(path: str) -> Any:
    """Open a regular file for unbuffered reading; a FIFO is refused before it can block."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise InputError(f"{path}: {kind}; give a safetensors file")
        return open(path, "rb", buffering=0)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: cannot be read ({reason})") from error
