"""Bringing a large file to disk while it is still being written."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO

STEP = 32 << 20  # bytes written between two calls; a smaller file is only synced at its end


class Flusher:
    """Syncs a file from a thread of its own whenever :data:`STEP` more bytes were written.

    The last sync, which a writer must wait for, then has little left to do: the disk works while
    the processor does.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._unsynced = 0
        self._running: Future[None] | None = None
        self._pool: ThreadPoolExecutor | None = None

    def wrote(self, count: int) -> None:
        """Say that so many more bytes were written; any thread may.

        Raises
        ------
        OSError
            Of the sync before: the system tells of a failed write only once.
        """
        with self._lock:
            self._unsynced += count
            if self._unsynced < STEP or (self._running and not self._running.done()):
                return
            if self._running:
                self._running.result()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="tq-flusher")
            self._running = self._pool.submit(self._sync)
            self._unsynced = 0

    def _sync(self) -> None:
        # without the metadata where the system can: the last sync brings those
        getattr(os, "fdatasync", os.fsync)(self._file.fileno())

    def finish(self) -> None:
        """Sync all that was written.

        Raises
        ------
        OSError
            If the disk refuses, now or before.
        """
        if self._running:
            self._running.result()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Flusher:
        """The flusher itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for a sync under way: the file may be closed then."""
        if self._pool is not None:
            self._pool.shutdown()
