"""JSON that others wrote: parsed strictly, and bounded before it is believed."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from tqcli.errors import InputError

# Every [, { and , of a document may cost some 60 bytes as a Python object, so their number is
# bounded before it is parsed. The largest legal documents (tables for each of thousands of heads)
# have about 100,000.
MAX_MARKS = 1 << 20
# Deeper than anything that is written here, and far from the recursion limit.
MAX_DEPTH = 32
_MAX_INT_DIGITS = 19


def read_json(path: str | os.PathLike[str], what: str, limit: int) -> Any:
    """Read and parse a JSON file.

    Parameters
    ----------
    path : str or path
    what : str
        What the file should be, for errors: ``a codebook``.
    limit : int
        Largest size in bytes.

    Raises
    ------
    InputError
        If it is no regular file of at most `limit` bytes of strict JSON in UTF-8.
    """
    where = os.fspath(path)
    try:
        if not Path(path).is_file():
            kind = "no regular file" if Path(path).exists() else "there is no such file"
            raise InputError(f"{where}: {kind}; {what} is a JSON file")
        if (size := Path(path).stat().st_size) > limit:
            raise InputError(f"{where}: {size} bytes; {what} has at most {limit}")
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror}); give {what}") from error
    except ValueError as error:
        raise InputError(f"{where}: not UTF-8 text ({error}); give {what}") from error
    return parse_json(text, where, what)


def parse_json(text: str, where: str, what: str) -> Any:
    """Parse strict JSON: no NaN, no name twice, no huge number, neither deep nor too long.

    Raises
    ------
    InputError
        The message begins with `where` and says that `what` is expected.
    """
    try:
        require_modest(text)
        document = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_int,
            parse_float=_float,
        )
        _require_shallow(document)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); {what} is expected") from error
    return document


def require_modest(text: str | bytes) -> None:
    """Raise ValueError if parsing would cost far more memory than the text has bytes."""
    if isinstance(text, str):
        count = sum(map(text.count, ("[", "{", ",")))
    else:
        count = sum(map(text.count, (b"[", b"{", b",")))
    if count > MAX_MARKS:
        raise ValueError(f"{count} values, at most {MAX_MARKS} are read")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"name {name!r} occurs twice")
        made[name] = value
    return made


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _int(digits: str) -> int:
    if len(digits.lstrip("-")) > _MAX_INT_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"number {digits[:_MAX_INT_DIGITS]} is beyond float64")
    return value


def _require_shallow(document: Any) -> None:
    level = [document]
    for _ in range(MAX_DEPTH):
        inner = [node for node in level if isinstance(node, dict | list)]
        if not inner:
            return
        level = [
            child for node in inner for child in (node.values() if isinstance(node, dict) else node)
        ]
    raise ValueError(f"nested deeper than {MAX_DEPTH}")
