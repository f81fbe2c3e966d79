"""Checksums of containers: which hash, over which bytes, and how one is written down.

A checksum is a text ``NAME:HEX``, so that a file says which hash it was made with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from tqcli.errors import InputError, quoted


class Hash(Protocol):
    """What this module needs of a hash; both let go of the GIL while they work."""

    def update(self, data: Any, /) -> object:
        """Add bytes."""
        ...

    def hexdigest(self) -> str:
        """The hash of all that came, as hex digits."""
        ...


# Another hash is one more line. BLAKE3 costs a third of what SHA-256 costs with instructions of
# its own, and a tenth of what it costs without.
HASHES: Mapping[str, Callable[[], Hash]] = {"blake3": blake3, "sha256": hashlib.sha256}
HASH = "blake3"  # of everything that is written
FIRST_HASH = "sha256"  # of schema version 1, whose files do not name it
_HEX = frozenset("0123456789abcdef")


class Digest:
    """A running hash of array data.

    Parameters
    ----------
    name : str
        One of :data:`HASHES`.
    """

    def __init__(self, name: str = HASH) -> None:
        self.name = name
        self._hash = HASHES[name]()

    def update(self, piece: NDArray[Any]) -> None:
        """Add the bytes of a contiguous array."""
        if piece.size:
            self._hash.update(piece.reshape(-1).view(np.uint8).data)

    def update_text(self, text: str) -> None:
        """Add a text in UTF-8."""
        self._hash.update(text.encode("utf-8", "surrogatepass"))

    def checksum(self) -> str:
        """The checksum of all that came: ``NAME:HEX``."""
        return f"{self.name}:{self._hash.hexdigest()}"


def zeros(name: str = HASH) -> str:
    """A checksum with every digit 0: what stands where the real one is not known yet.

    Examples
    --------
    >>> zeros("blake3") == "blake3:" + "0" * 64
    True
    """
    return f"{name}:{'0' * len(HASHES[name]().hexdigest())}"


def name_of(checksum: str) -> str:
    """The name of the hash that a checksum was made with."""
    return checksum.partition(":")[0]


def require_checksum(value: object, where: str) -> str:
    """`value` if it is a checksum by a known hash.

    Raises
    ------
    InputError
        The message begins with `where`.
    """
    if isinstance(value, str):
        name, _, digits = value.partition(":")
        if name in HASHES and len(value) == len(zeros(name)) and not set(digits) - _HEX:
            return value
    raise InputError(
        f"{where} is {quoted(value, 40)}; expected is NAME:HEX with one of the hashes "
        f"{', '.join(HASHES)}"
    )


def of_header(text: str, tensors: Iterable[tuple[str, str, tuple[int, ...]]], name: str) -> str:
    """The checksum of a file's metadata and of what its header says of the tensors.

    Parameters
    ----------
    text : str
        The metadata, with :func:`zeros` in the place of this checksum.
    tensors : iterable of (name, safetensors dtype, shape)
        In any order. Their data are covered by the checksums that the metadata holds.
    name : str
        One of :data:`HASHES`.
    """
    digest = Digest(name)
    digest.update_text(text)
    for tensor, dtype, shape in sorted(tensors):
        digest.update_text(f"\n{tensor} {dtype} {','.join(map(str, shape))}")
    return digest.checksum()


def of_parts(checksums: Iterable[str], name: str = HASH) -> str:
    """The checksum of several, in this order: of the lines that they make."""
    digest = Digest(name)
    for checksum in checksums:
        digest.update_text(f"{checksum}\n")
    return digest.checksum()
