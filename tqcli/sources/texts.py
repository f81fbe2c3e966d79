"""Prompt texts from files and standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from tqcli.errors import InputError

STDIN = "-"


def read_texts(files: Iterable[str]) -> list[str]:
    """The text of every file; ``-`` is standard input.

    Raises
    ------
    InputError
        A file cannot be read or is not UTF-8.
    """
    return [_read(name) for name in files]


def _read(name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 (byte {error.start}); legal is a text file") from error
