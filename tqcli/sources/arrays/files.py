"""Arrays on disk, read slab by slab: .npy, .npz and .safetensors, none of them trusted.

NumPy's own loaders are not used: they map or read whole files, follow pickles, and unpack an
archive before anybody has looked at its sizes.
"""

from __future__ import annotations

import ast
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError, input_error
from tqcli.kv.tensorfile import TensorFile
from tqcli.sources.binary import FieldReader

SUFFIXES = (".npy", ".npz", ".safetensors")
MAX_RATIO = 16  # unpacked / packed size of an archive; real K and V reach 1.1 to 1.3
_MIN_UNPACKED = 1 << 20  # small archives may hold zeros
_MAX_FILES = 4096  # one per layer and side
_LEGAL = "float16, float32 or float64, little-endian"
_MAGIC = b"\x93NUMPY"
_MAGIC_BYTES = 8  # the magic and two bytes of version
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4}  # of the header's length, by version
_MAX_HEADER = 10_000  # NumPy's own bound on what it evaluates
_DESCR = re.compile(r"[<>|=][a-zA-Z][0-9]{0,6}")

ReadAt = Callable[[int, NDArray[Any]], None]


@dataclass(frozen=True)
class StoredArray:
    """One array of a file.

    Parameters
    ----------
    where : str
        File and name, for messages.
    name : str
        What patterns are matched against.
    shape : tuple of int
    dtype : numpy.dtype
    reversed_axes : bool
        Fortran order: in the file, the first axis runs fastest.
    read_at : callable
        Fill a contiguous array from this byte of the array's data on.
    """

    where: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    reversed_axes: bool
    read_at: ReadAt = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return math.prod(self.shape) * self.dtype.itemsize

    def slab(self, fixed: Mapping[int, int]) -> NDArray[Any]:
        """The part with these indices along these axes; the other axes stay, in order."""
        shape = self.shape[::-1] if self.reversed_axes else self.shape
        rank = len(shape)
        if self.reversed_axes:
            fixed = {rank - 1 - axis: index for axis, index in fixed.items()}
        part = self._slab(shape, fixed)
        return part.T if self.reversed_axes else part

    def _slab(self, shape: tuple[int, ...], fixed: Mapping[int, int]) -> NDArray[Any]:
        inner = max(fixed, default=-1) + 1  # from here on the data lies together
        loops = [range(shape[a]) if a not in fixed else (fixed[a],) for a in range(inner)]
        out = np.empty([*(len(loop) for loop in loops), *shape[inner:]], self.dtype)
        step = math.prod(shape[inner:]) * self.dtype.itemsize
        for place in np.ndindex(*(len(loop) for loop in loops)):
            flat = 0
            for axis, position in enumerate(place):
                flat = flat * shape[axis] + loops[axis][position]
            self.read_at(flat * step, out[(*place, ...)])  # a view even of one value
        return out.reshape([n for axis, n in enumerate(shape) if axis not in fixed])


@dataclass(frozen=True)
class Opened:
    """The arrays of one or more files, and the safetensors metadata if there is any."""

    arrays: tuple[StoredArray, ...]
    metadata: Mapping[str, str]


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Open a file, or every file of a folder; the arrays can be read until the block ends.

    In a folder, an array is called ``FILE:NAME``.

    Raises
    ------
    InputError
        No such file, a kind of file that is not read, or damage.
    """
    with ExitStack() as stack:
        if not path.is_dir():
            yield _open_file(path, "", stack)
            return
        files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
        if not files or len(files) > _MAX_FILES:
            legal = f"legal is a folder with 1 to {_MAX_FILES}"
            raise input_error(path, f"{len(files)} files {'/'.join(SUFFIXES)}", legal)
        parts = [_open_file(file, f"{file.name}:", stack) for file in files]
        yield Opened(tuple(array for part in parts for array in part.arrays), {})


def _open_file(path: Path, prefix: str, stack: ExitStack) -> Opened:
    if path.suffix == ".safetensors":
        return _open_safetensors(path, prefix, stack)
    if path.suffix == ".npz":
        return Opened(tuple(_open_npz(path, prefix, stack)), {})
    if path.suffix == ".npy":
        reader = stack.enter_context(FieldReader(path))
        array = _npy(str(path), prefix + path.stem, reader.raw, reader.size)

        start = reader.at

        def read_at(at: int, out: NDArray[Any]) -> None:
            reader.seek(start + at)
            flat = reader.array(out.dtype, out.size, "data")
            out.reshape(-1)[:] = flat

        return Opened((array(read_at),), {})
    raise input_error(path, f"suffix {path.suffix!r}", f"legal are {', '.join(SUFFIXES)}")


def _open_safetensors(path: Path, prefix: str, stack: ExitStack) -> Opened:
    file = stack.enter_context(TensorFile(path))
    arrays = []
    for name, entry in file.entries.items():

        def read_at(at: int, out: NDArray[Any], entry: Any = entry) -> None:
            file.read(entry, at, out)

        where = f"{path}: {name}"
        arrays.append(StoredArray(where, prefix + name, entry.shape, entry.dtype, False, read_at))
    return Opened(tuple(arrays), file.metadata)


def _npy(
    where: str, name: str, raw: Callable[[int, str], bytes], size: int
) -> Callable[[ReadAt], StoredArray]:
    """Check a .npy header against the ``size`` bytes that there are, header included."""
    head = raw(_MAGIC_BYTES, "magic")
    if head[:6] != _MAGIC:
        raise InputError(f"{where}: begins with {head[:6]!r}; not a .npy array")
    width = _LENGTH_BYTES.get((head[6], head[7]))
    if width is None:
        raise InputError(f"{where}: .npy version {head[6]}.{head[7]}; legal are 1.0 and 2.0")
    length = int.from_bytes(raw(width, "header length"), "little")
    if length > _MAX_HEADER:
        raise InputError(f"{where}: header of {length} bytes; legal is up to {_MAX_HEADER}")
    shape, fortran, dtype = _header(where, raw(length, "header"))
    data = size - _MAGIC_BYTES - width - length
    if math.prod(shape) * dtype.itemsize != data:
        raise InputError(
            f"{where}: shape {shape} of {dtype} needs {math.prod(shape) * dtype.itemsize} bytes,"
            f" the file has {data}; it is cut short or damaged"
        )
    return lambda read_at: StoredArray(where, name, shape, dtype, fortran, read_at)


def _header(where: str, text: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype from the dictionary that a .npy header spells."""
    try:
        header = ast.literal_eval(text.decode("latin1").strip())
        shape, fortran, descr = (header[key] for key in ("shape", "fortran_order", "descr"))
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(f"{where}: unreadable .npy header; the file is damaged") from error
    if not isinstance(descr, str) or not _DESCR.fullmatch(descr):
        raise InputError(f"{where}: dtype {str(descr)[:60]!r}; legal is {_LEGAL}")
    if not isinstance(shape, tuple) or any(type(n) is not int or n < 0 for n in shape):
        raise InputError(f"{where}: shape {str(shape)[:60]}; legal are whole numbers from 0 on")
    if not isinstance(fortran, bool):
        raise InputError(f"{where}: fortran_order {fortran!r}; legal are True and False")
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: dtype {descr!r}; legal is {_LEGAL}") from error
    _check_dtype(where, dtype)
    return shape, fortran, dtype


def _check_dtype(where: str, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise InputError(
            f"{where}: pickled objects; legal is {_LEGAL}; pickles run code and are never loaded:"
            " save the array with a float dtype"
        )
    if dtype.kind == "f" and dtype.byteorder == ">":
        raise InputError(f"{where}: big-endian {dtype}; legal is {_LEGAL}; save a.astype('<f4')")
    if dtype.kind == "V":
        raise InputError(
            f"{where}: raw bytes ({dtype}), perhaps bfloat16, whose name .npy cannot hold; legal is"
            f" {_LEGAL}; save it as float32, or as .safetensors"
        )
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise InputError(f"{where}: dtype {dtype}; legal is {_LEGAL}")


def _open_npz(path: Path, prefix: str, stack: ExitStack) -> Iterator[StoredArray]:
    size = stack.enter_context(FieldReader(path)).size  # a regular file, or refused
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        raise InputError(f"{path}: not a .npz archive ({error})") from error
    members = archive.infolist()
    unpacked, limit = sum(m.file_size for m in members), max(MAX_RATIO * size, _MIN_UNPACKED)
    if unpacked > limit or len(members) > _MAX_FILES:
        raise InputError(
            f"{path}: {len(members)} members that unpack to {unpacked} bytes; legal for a file of"
            f" {size} are {_MAX_FILES} members and {limit} bytes; unpack it and use .npy files"
        )
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise InputError(f"{path}: two members of one name; a reader must not choose")
    held = _Held(archive, path)
    for member in members:
        where = f"{path}: {member.filename}"
        with _member(archive, member, where) as stream:

            def raw(count: int, what: str, stream: Any = stream, where: str = where) -> bytes:
                data: bytes = stream.read(count)
                if len(data) != count:
                    raise InputError(f"{where}: ends within its {what}; it is damaged")
                return data

            make = _npy(where, prefix + member.filename.removesuffix(".npy"), raw, member.file_size)
            yield make(held.reader(member))


class _Held:
    """The bytes of the one member that was read last: archives cannot be read in the middle."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive, self._path = archive, path
        self._name, self._data = "", b""

    def reader(self, member: zipfile.ZipInfo) -> ReadAt:
        def read_at(at: int, out: NDArray[Any]) -> None:
            if self._name != member.filename:
                self._name, self._data = "", b""  # the old one goes before the new one comes
                with _member(self._archive, member, f"{self._path}: {member.filename}") as stream:
                    self._data = stream.read(member.file_size + 1)
                self._name = member.filename
            start = self._data_start(member) + at
            piece = np.frombuffer(self._data, out.dtype, out.size, start)
            out.reshape(-1)[:] = piece

        return read_at

    def _data_start(self, member: zipfile.ZipInfo) -> int:
        width = 2 if self._data[6] == 1 else 4
        end = _MAGIC_BYTES + width
        start = end + int.from_bytes(self._data[_MAGIC_BYTES:end], "little")
        if len(self._data) != member.file_size:
            raise InputError(
                f"{self._path}: {member.filename}: unpacks to {len(self._data)} bytes; its record"
                f" says {member.file_size}; it is damaged"
            )
        return start


@contextmanager
def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> Iterator[Any]:
    """Open one member; whatever zipfile dislikes, in opening or reading, becomes one line."""
    try:
        with archive.open(member) as stream:
            yield stream
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise InputError(f"{where}: damaged archive ({error})") from error
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise InputError(f"{where}: cannot be unpacked ({error}); save it with np.savez") from error
