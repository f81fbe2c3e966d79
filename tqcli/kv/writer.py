"""Writing safetensors as a stream: tensors larger than memory, equal bytes for equal input."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.kv.atomic import replacing, reserve
from tqcli.kv.digest import Digest
from tqcli.kv.tensorfile import ALL_DTYPES, LENGTH_BYTES

_NAMES = {dtype: name for name, dtype in ALL_DTYPES.items()}
_NO_DIGEST = "0" * 64
ALIGNMENT = 64  # data starts on a cache line, so that a C program can map it


class TensorWriter:
    """One safetensors file, written front to back.

    The header holds a hash of each tensor, so room is left for it and it is filled in at the end.

    Parameters
    ----------
    path : str or path
    tensors : sequence of (name, dtype, shape)
        What will be written, in this order.
    metadata : callable
        Given ``{name: sha256}``, the text of the one metadata key ``tq``. Its length may not
        depend on the hashes.
    force : bool
        Replace an existing file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tensors: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]],
        metadata: Callable[[Mapping[str, str]], str],
        *,
        force: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        self._tensors = list(tensors)
        self._metadata = metadata
        self._force = force
        self._hashes = {name: _NO_DIGEST for name, _, _ in tensors}
        self._next = 0

    def __enter__(self) -> TensorWriter:
        """Open the temporary file and reserve the header."""
        with ExitStack() as stack:
            self._file: IO[bytes] = stack.enter_context(replacing(self.path, force=self._force))
            self._header = self._make_header()
            reserve(self._file, len(self._header) + sum(_nbytes(*t[1:]) for t in self._tensors))
            self._file.write(self._header)
            self._stack = stack.pop_all()
        return self

    def _make_header(self) -> bytes:
        header: dict[str, Any] = {"__metadata__": {"tq": self._metadata(self._hashes)}}
        offset = 0
        for name, dtype, shape in self._tensors:
            end = offset + _nbytes(dtype, shape)
            header[name] = {
                "dtype": _NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
        text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT)
        return len(text).to_bytes(LENGTH_BYTES, "little") + text

    def write(self, name: str, pieces: Any) -> None:
        """Write the next tensor from an iterable of contiguous arrays, in order.

        Raises
        ------
        InputError
            If the pieces do not add up to the size that was announced.
        """
        expected, dtype, shape = self._tensors[self._next]
        if name != expected:
            raise InputError(f"{self.path}: {name} came where {expected} was announced")
        size = _nbytes(dtype, shape)
        done = 0
        with Digest() as digest:
            for piece in pieces:
                array: NDArray[Any] = np.ascontiguousarray(piece, dtype)
                digest.update(array)
                self._file.write(array.reshape(-1).view(np.uint8).data)
                done += array.nbytes
            self._hashes[name] = digest.hexdigest()
        if done != size:
            raise InputError(f"{self.path}: {name}: {done} bytes came, {size} were announced")
        self._next += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        """Fill in the hashes and put the file in its place; on an error, leave nothing."""
        if error is not None:
            return self._stack.__exit__(kind, error, trace)
        with self._stack:
            if self._next != len(self._tensors):
                raise InputError(f"{self.path}: {self._tensors[self._next][0]} was never written")
            final = self._make_header()
            if len(final) != len(self._header):
                raise InputError(f"{self.path}: metadata changed its length while writing")
            self._file.seek(0)
            self._file.write(final)
        return None


def _nbytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=object)) * dtype.itemsize
