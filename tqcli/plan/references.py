"""Files that a plan leans on: codebooks and calibrations, by path and by what is in them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tqcli.codebook import CodebookSet, read_codebook
from tqcli.errors import InputError
from tqcli.kv.checksum import Digest


@dataclass(frozen=True)
class Book:
    """A codebook file.

    Parameters
    ----------
    file : str
        Path as it was given.
    tables : CodebookSet
    """

    file: str
    tables: CodebookSet = field(repr=False)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Book:
        """Open and check a codebook file."""
        return cls(os.fspath(path), read_codebook(path))

    @cached_property
    def checksum(self) -> str:
        """Of the centroids and boundaries: equal for tables that give equal bytes."""
        tables = {
            key: [list(table.centroids), list(table.boundaries)]
            for key, table in self.tables.tables.items()
        }
        digest = Digest()
        digest.update_text(json.dumps(tables, sort_keys=True))
        return digest.checksum()


@dataclass(frozen=True)
class CalibrationFile:
    """A calibration file by path and content; :mod:`tqcli.plan.calibration` opens it.

    Parameters
    ----------
    file : str
        Path as it was given.
    checksum : str
        Of its metadata, and so of all that is in it.
    """

    file: str
    checksum: str


def reference(used: Book | CalibrationFile) -> dict[str, str]:
    """JSON of a file that a plan leans on."""
    return {"file": used.file, "checksum": used.checksum}


def resolve(data: Any, what: str, folder: Path) -> tuple[str, str | None]:
    """Path and promised checksum of a reference in a plan file.

    Parameters
    ----------
    data : Any
        ``"name.json"``, or ``{"file": ..., "checksum": ...}``.
    what : str
        The key, for errors.
    folder : Path
        Where relative paths begin: the folder of the plan file.

    Raises
    ------
    InputError
        It is neither.
    """
    if isinstance(data, str):
        data = {"file": data}
    file = data.get("file") if isinstance(data, dict) else None
    promised = data.get("checksum") if isinstance(data, dict) else None
    if not isinstance(file, str) or not (promised is None or isinstance(promised, str)):
        raise InputError(f'{what}: {data!r}; write a path, or {{"file": ..., "checksum": ...}}')
    return str(folder / file), promised


def require_same(path: str, promised: str | None, came: str) -> None:
    """Raise :class:`InputError` if a file is not the one that a plan was made with."""
    if promised is not None and promised != came:
        raise InputError(
            f"{path}: checksum {came[:23]}..., the plan names {promised[:23]}...; it has changed "
            "since, take the checksum out of the plan to use it as it is"
        )
