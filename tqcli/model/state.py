"""What a run has measured so far, on disk, so that an interrupted one can go on."""

from __future__ import annotations

import json
from pathlib import Path

from tqcli.errors import InputError
from tqcli.jsonfile import read_json
from tqcli.kv.atomic import write_text
from tqcli.model.divergence import Divergence

SCHEMA = "tq.score-state/1"
_LIMIT = 1 << 30


class State:
    """Results by key; written to a file after each new one, where there is a file.

    Parameters
    ----------
    fingerprint : str
        Of model, tokens and settings: what a continued run must agree in.
    path : Path, optional
        Need not exist yet.

    Raises
    ------
    InputError
        The file is no state of this run.
    """

    def __init__(self, fingerprint: str, path: Path | None = None) -> None:
        self.fingerprint, self.path = fingerprint, path
        self.done: dict[str, Divergence] = {}
        if path is not None and path.exists():
            self._read(path)

    def put(self, key: str, result: Divergence) -> None:
        """Remember a result."""
        self.done[key] = result
        if self.path is None:
            return
        document = {
            "schema": SCHEMA,
            "fingerprint": self.fingerprint,
            "done": {key: result.to_json() for key, result in self.done.items()},
        }
        write_text(self.path, json.dumps(document, allow_nan=False), force=True)

    def _read(self, path: Path) -> None:
        document = read_json(path, "a state file of tq score", _LIMIT)
        try:
            if document["schema"] != SCHEMA:
                raise ValueError(document["schema"])
            fingerprint = document["fingerprint"]
            self.done = {k: Divergence.from_json(v) for k, v in document["done"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: no state file of tq score ({error!r}); give another --state"
            ) from error
        if fingerprint != self.fingerprint:
            raise InputError(
                f"{path}: holds results of another model, text or setting; "
                "remove it or give another --state"
            )
