"""SHA-256 beside the work: hashing one piece overlaps with what is done to it."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Digest:
    """A running SHA-256 that is computed in a thread of its own.

    `update` returns when the piece before is done; the array must stay unchanged until the next
    `update`. Inactive, it does nothing.
    """

    def __init__(self, *, active: bool = True) -> None:
        self._hash = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1) if active else None
        self._pending: Future[None] | None = None

    def update(self, piece: NDArray[Any]) -> None:
        """Add the bytes of a contiguous array."""
        if self._pool is None or not piece.size:
            return
        self._wait()  # one piece at a time: memory stays bounded
        self._pending = self._pool.submit(self._hash.update, piece.reshape(-1).view(np.uint8).data)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def hexdigest(self) -> str:
        """The hash of all that came."""
        self._wait()
        return self._hash.hexdigest()

    def __enter__(self) -> Digest:
        """The digest itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the thread."""
        if self._pool is not None:
            self._pool.shutdown()
