"""Writing safetensors as a stream: tensors larger than memory, equal bytes for equal input."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.kv import checksum
from tqcli.kv.atomic import blamed, reserve, scratch
from tqcli.kv.flusher import Flusher
from tqcli.kv.positional import write_at
from tqcli.kv.tensorfile import DTYPE_NAMES, LENGTH_BYTES

Spec = tuple[str, np.dtype[Any], tuple[int, ...]]
ALIGNMENT = 64  # data starts on a cache line, so that a C program can map it


class TensorWriter:
    """One safetensors file under a temporary name, which :meth:`place` gives its own.

    The header holds checksums of what comes after it, so room is left for it and it is written
    last. Threads may write different tensors at the same time, in any order.

    Parameters
    ----------
    path : str or path
        The temporary file lies beside it, and errors name it.
    tensors : sequence of (name, dtype, shape)
        What will be written; the data lie in the file in this order.
    record : mapping
        The metadata. ``checksum``, and ``digest`` of each tensor under ``tensors``, are added.
    """

    def __init__(
        self, path: str | os.PathLike[str], tensors: Sequence[Spec], record: Mapping[str, Any]
    ) -> None:
        self.path = os.fspath(path)
        self._tensors = {spec[0]: spec for spec in tensors}
        self._record = record
        self._digests: dict[str, str] = {}
        self._starts: dict[str, int] = {}

    def __enter__(self) -> TensorWriter:
        """Open the temporary file and claim its room on disk."""
        blank = self._header(dict.fromkeys(self._tensors, checksum.zeros()), checksum.zeros())
        end = self._header_bytes = len(blank)
        for name, spec in self._tensors.items():
            self._starts[name] = end
            end += nbytes(spec)
        with ExitStack() as stack:
            self._file, self._name = stack.enter_context(scratch(Path(self.path)))
            self._flusher = stack.enter_context(Flusher(self._file))
            reserve(self._file, end)
            self._stack = stack.pop_all()
        return self

    def _header(self, digests: Mapping[str, str], own: str) -> bytes:
        header: dict[str, Any] = {"__metadata__": {"tq": self._metadata(digests, own)}}
        offset = 0
        for name, dtype, shape in self._tensors.values():
            end = offset + nbytes((name, dtype, shape))
            header[name] = {
                "dtype": DTYPE_NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [offset, end],
            }
            offset = end
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
        text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT)
        return len(text).to_bytes(LENGTH_BYTES, "little") + text

    def _metadata(self, digests: Mapping[str, str], own: str) -> str:
        known = self._record["tensors"]
        tensors = {n: {**known.get(n, {}), "digest": digests[n]} for n in self._tensors}
        record = {**self._record, "checksum": own, "tensors": tensors}
        return json.dumps(record, sort_keys=True, separators=(",", ":"))

    def write(self, name: str, pieces: Iterable[NDArray[Any]]) -> None:
        """Write a tensor from contiguous arrays that follow one another.

        Raises
        ------
        InputError
            If the tensor was not announced or came before, the pieces do not add up to its size,
            or the disk refuses.
        """
        if name not in self._tensors or name in self._digests:
            raise InputError(f"{self.path}: {name} was not announced, or came twice")
        size = nbytes(self._tensors[name])
        digest = checksum.Digest()
        done = 0
        for piece in pieces:
            array: NDArray[Any] = np.ascontiguousarray(piece, self._tensors[name][1])
            if done + array.nbytes <= size:  # what is too much would run into the next tensor
                digest.update(array)
                with blamed(self.path):
                    view = array.reshape(-1).view(np.uint8).data
                    write_at(self._file, view, self._starts[name] + done)
                    self._flusher.wrote(array.nbytes)
            done += array.nbytes
        if done != size:
            raise InputError(f"{self.path}: {name}: {done} bytes came, {size} were announced")
        self._digests[name] = digest.checksum()

    def finish(self) -> str:
        """Write the header, bring all to disk and close the file; the checksum of the header."""
        for name in self._tensors:
            if name not in self._digests:
                raise InputError(f"{self.path}: {name} was never written")
        entries = ((n, DTYPE_NAMES[dtype], shape) for n, dtype, shape in self._tensors.values())
        blank = self._metadata(self._digests, checksum.zeros())
        own = checksum.of_header(blank, entries, checksum.HASH)
        self.header = self._header(self._digests, own)
        with blamed(self.path):
            write_at(self._file, memoryview(self.header), 0)
            self._flusher.finish()
            self._file.close()
        return own

    def place(self, path: str | os.PathLike[str]) -> None:
        """Give the finished file its name, in place of what stands there."""
        with blamed(path):
            os.replace(self._name, path)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file, and remove it if it was not placed."""
        self._stack.close()


def nbytes(spec: Spec) -> int:
    """Bytes of data of a tensor."""
    return int(np.prod(spec[2], dtype=object)) * spec[1].itemsize
