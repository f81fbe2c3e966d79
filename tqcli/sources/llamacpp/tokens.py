"""Token ids of a sequence file: plain, or packed with media as the server's slots have them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError

MARK = -1  # first word of a packed blob; no token has this id
VERSION = 1


def unpack_tokens(
    words: NDArray[np.int32], fail: Callable[[str, str], InputError]
) -> tuple[NDArray[np.int32], int]:
    """Token ids in the words of a sequence file, and the number of media chunks.

    ::

        i32 -1 | u32 1 | u32 n | i32 token[n] | u32 m | u32 start[m] | m chunks | zeros
        chunk  u32 size | size bytes

    The zeros fill the last word. Words that do not start with -1 are the ids themselves. Where
    media stands, the ids are -1. `fail` makes an error of what came and what is possible.

    Raises
    ------
    InputError
        The blob is of an unknown version or its counts do not add up.
    """
    if words.size == 0 or words[0] != MARK:
        return words, 0
    data = np.ascontiguousarray(words, "<i4").view(np.uint8)
    at = 4

    def number(field: str) -> int:
        nonlocal at
        step(4, field)
        return int.from_bytes(data[at - 4 : at].tobytes(), "little")

    def step(count: int, field: str) -> None:
        nonlocal at
        if count > data.size - at:
            raise fail(
                f"packed tokens: {field} needs {count} bytes and {data.size - at} are left",
                "the file is damaged",
            )
        at += count

    if (version := number("version")) != VERSION:
        raise fail(f"packed tokens of version {version}", f"known: {VERSION}")
    count = number("token count")
    first = at // 4
    step(4 * count, f"{count} tokens")
    media = number("media count")
    step(4 * media, f"{media} media")
    for _ in range(media):
        step(number("media size"), "a media chunk")
    if data.size - at >= 4 or data[at:].any():
        raise fail(f"{data.size - at} bytes after the packed tokens", "none is expected")
    return words[first : first + count], media


def pack_tokens(tokens: NDArray[np.int32]) -> NDArray[np.int32]:
    """The blob that :func:`unpack_tokens` reads, of tokens without media.

    Examples
    --------
    >>> pack_tokens(np.array([7, 9], np.int32)).tolist()
    [-1, 1, 2, 7, 9, 0]
    """
    return np.concatenate(
        [np.array([MARK, VERSION, len(tokens)], np.int32), tokens, np.zeros(1, np.int32)]
    )
