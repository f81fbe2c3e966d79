"""Open what a dump is held against, by what its metadata says it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqcli.errors import InputError
from tqcli.kv.container import Container
from tqcli.kv.dump import Dump
from tqcli.kv.packed import SCHEMAS as PACKED_SCHEMAS
from tqcli.kv.packed import Packed
from tqcli.pipeline.evaluate import Candidate


@contextmanager
def open_candidate(
    path: str | os.PathLike[str], dump: Dump, *, force: bool = False
) -> Iterator[tuple[Candidate, dict[str, Any]]]:
    """Open a packed cache or a second dump, and its input record for the report.

    Raises
    ------
    InputError
        If a packed cache says that it was made from another dump, unless `force`.
    """
    container = Container(path)
    schema = container.record.get("schema")
    container.close()
    if schema not in PACKED_SCHEMAS:
        with Dump(path) as twin:
            yield Candidate(dump=twin), {"path": twin.path, "fingerprint": twin.fingerprint()}
        return
    with Packed(path) as packed:
        if not force and not packed.made_from(dump):
            raise InputError(
                f"{packed.path}: was made from another dump than {dump.path}; "
                "give its own dump or pass --force"
            )
        yield Candidate(packed=packed), {"path": packed.path, "dump_fingerprint": packed.origin}
