"""Which kind of source the user means: by the first bytes and the name, nothing else is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tqcli.errors import UsageError
from tqcli.sources.arrays.files import SUFFIXES
from tqcli.sources.hf.model import ALIASES, is_model

Kind = Literal["transformers", "llama.cpp", "arrays"]

# llama.cpp writes its magics as little-endian numbers: 'ggsn' and 'ggsq' backwards.
_SAVE_MAGICS = (b"nsgg", b"qsgg")
_MAGIC_BYTES = 4


def kind_of(sources: Sequence[str]) -> Kind:
    """Tell a model, a llama.cpp save file and arrays apart.

    Raises
    ------
    UsageError
        It is none of them, or several files that are not all arrays.

    Examples
    --------
    >>> kind_of(["smollm2"])
    'transformers'
    """
    kinds = {_kind_of_one(source) for source in sources}
    if len(kinds) != 1:
        raise UsageError(f"{' '.join(sources)}: sources of several kinds; give one kind at a time")
    kind = kinds.pop()
    if len(sources) > 1 and kind != "arrays":
        raise UsageError(f"{sources[1]}: one source at a time, unless they are array files")
    return kind


def _kind_of_one(source: str) -> Kind:
    path = Path(source)
    if source not in ALIASES and path.is_file() and _magic(path) in _SAVE_MAGICS:
        return "llama.cpp"
    if is_model(source):
        return "transformers"
    if path.is_dir() or path.suffix in SUFFIXES:
        return "arrays"
    raise UsageError(
        f"{source}: no such source; legal are a model folder, a hub id (owner/name), a .gguf file,"
        f" an alias ({', '.join(ALIASES)}), a llama.cpp save file, and {', '.join(SUFFIXES)}"
    )


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAGIC_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
