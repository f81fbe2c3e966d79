"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tqcli.errors import InputError, UsageError


def require_new(path: str | os.PathLike[str], *, force: bool) -> Path:
    """Check that a result may be written to `path`.

    Raises
    ------
    UsageError
        If something is there and `force` is not given, or the folder does not exist.
    """
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"{target}: is a directory; give a file name")
    if (target.exists() or target.is_symlink()) and not force:
        raise UsageError(f"{target}: exists; choose another name or pass --force")
    if target.exists() and not target.is_file():
        raise UsageError(f"{target}: is not a regular file; choose another name")
    if not target.parent.is_dir():
        raise UsageError(f"{target}: there is no folder {target.parent}; create it first")
    return target


def require_distinct(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Refuse to write a result over its own input."""
    if Path(target).exists() and Path(source).exists() and os.path.samefile(source, target):
        raise UsageError(f"{os.fspath(target)}: is the input itself; choose another output name")


@contextmanager
def scratch(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Open a temporary file in the folder of `target`, unbuffered; gone at the end if still there.

    Whoever wants to keep it closes and renames it before.
    """
    # Named before it is created, so that Ctrl-C at any moment finds it to remove.
    name = target.parent / f".{target.name}.{secrets.token_hex(8)}.tmp"
    try:
        with blamed(target), open(name, "x+b", buffering=0) as file:
            yield file, name
    finally:
        name.unlink(missing_ok=True)


@contextmanager
def blamed(target: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an error of the operating system into one that names the file to be written."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{os.fspath(target)}: cannot be written ({error.strerror or error})"
        ) from error


@contextmanager
def replacing(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[IO[bytes]]:
    """Open a temporary file in the folder of `path` that takes its place at the end.

    Written, synced and renamed in one step; on any exception, Ctrl-C and a full disk included,
    the temporary file is removed and what stood at `path` stays.
    """
    target = require_new(path, force=force)
    with scratch(target) as (file, name):
        yield file
        os.fsync(file.fileno())
        file.close()
        os.replace(name, target)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last: those before this call are on disk when it returns.

    Systems that cannot open a folder order renames themselves.
    """
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reserve(file: IO[bytes], size: int) -> None:
    """Claim `size` bytes of disk for an empty file.

    A disk that is too full says so before any work is done, and the file lies in one piece.

    Raises
    ------
    OSError
        If there is no room. A file system that cannot reserve is left to grow the file.
    """
    if size == 0 or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def write_text(path: str | os.PathLike[str], text: str, *, force: bool = False) -> None:
    """Write a small text file whole or not at all."""
    with replacing(path, force=force) as file:
        file.write(text.encode())
