"""Reading an untrusted binary file field by field: nothing is trusted beyond the file's own end."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqcli.errors import InputError, input_error

_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")


class FieldReader:
    """A regular file, read little-endian and forwards; every read is checked against its size.

    Parameters
    ----------
    path : path
        Must be a regular file: folders, pipes and devices are refused before they are opened.

    Raises
    ------
    InputError
        The file cannot be opened, or a field reaches beyond the end of it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.at = 0
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise input_error(self.path, "not a regular file", "a file is needed")
            self._file: BinaryIO = self.path.open("rb")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from error
        except ValueError as error:  # a NUL in the name
            raise InputError(f"{str(path)!r}: not a file name") from error
        self.size = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> FieldReader:
        """Return the reader itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._file.close()

    @property
    def left(self) -> int:
        """Bytes between here and the end of the file."""
        return self.size - self.at

    def fail(self, came: str, legal: str, todo: str = "") -> InputError:
        """Build an error that says where in the file the reader stands."""
        return input_error(self.path, f"at byte {self.at}: {came}", legal, todo)

    def need(self, count: int, field: str) -> None:
        """Refuse `field` unless `count` bytes are left for it."""
        if count > self.left:
            raise self.fail(
                f"{field} needs {count} bytes and {self.left} are left",
                "the file is cut short or its header is damaged",
            )

    def raw(self, count: int, field: str) -> bytes:
        """Read `count` bytes; they are known to exist before anything is allocated."""
        self.need(count, field)
        data = self._file.read(count)
        if len(data) != count:
            raise self.fail(f"{field} ended early", "the file shrank while it was read")
        self.at += count
        return data

    def u32(self, field: str) -> int:
        """Read an unsigned 32-bit number."""
        return int(_U32.unpack(self.raw(4, field))[0])

    def i32(self, field: str) -> int:
        """Read a signed 32-bit number."""
        return int(_I32.unpack(self.raw(4, field))[0])

    def u64(self, field: str) -> int:
        """Read an unsigned 64-bit number."""
        return int(_U64.unpack(self.raw(8, field))[0])

    def array(self, dtype: DTypeLike, count: int, field: str) -> NDArray[Any]:
        """Read `count` items of a little-endian `dtype`."""
        kind = np.dtype(dtype)
        self.need(count * kind.itemsize, field)
        out = np.fromfile(self._file, kind, count)
        if out.size != count:
            raise self.fail(f"{field} ended early", "the file shrank while it was read")
        self.at += count * kind.itemsize
        return out

    def skip(self, count: int, field: str) -> None:
        """Step over `count` bytes that exist."""
        self.need(count, field)
        self.at += count
        self._file.seek(self.at)

    def seek(self, at: int) -> None:
        """Go to byte `at`, which lies within the file."""
        self.at = at
        self._file.seek(at)
