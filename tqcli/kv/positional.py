"""Reading and writing at an offset, so that threads can share one open file."""

from __future__ import annotations

import os
from threading import Lock
from typing import IO, Any

_lock = Lock()  # for systems where a position can only be set before


def read_at(file: IO[bytes], view: memoryview, offset: int) -> int:
    """Read into `view` from byte `offset` of a file on; the number of bytes that came.

    0 is the end of the file. `file` must be unbuffered.
    """
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [view], offset)
    with _lock:
        file.seek(offset)
        raw: Any = file
        return int(raw.readinto(view))


def write_at(file: IO[bytes], view: memoryview, offset: int) -> None:
    """Write all of `view` at byte `offset` of an unbuffered file."""
    while view:
        if hasattr(os, "pwrite"):
            done = os.pwrite(file.fileno(), view, offset)
        else:
            with _lock:
                file.seek(offset)
                done = file.write(view)
        view, offset = view[done:], offset + done
