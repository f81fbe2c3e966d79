"""What an interrupted prefill has to remember beside its spools."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqcli.errors import InputError

_NAME = "journal.json"


@dataclass
class State:
    """How far a run came, and what it found out.

    Parameters
    ----------
    fingerprint : str
        Identifies model, tokens and options.
    sequence, tokens : int
        Whole sequences done, and tokens of the one after them.
    layouts : dict
        Row layout of every spool, by name.
    ropes, facts : dict
        Rotary embedding and attention parameters, by layer.
    """

    fingerprint: str
    sequence: int = 0
    tokens: int = 0
    layouts: dict[str, dict[str, Any]] = field(default_factory=dict)
    ropes: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_journal(folder: Path) -> State | None:
    """The state of the run in ``folder``; None where there was none.

    Raises
    ------
    InputError
        The journal is damaged.
    """
    path = folder / _NAME
    try:
        return State(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: not a journal of tq dump ({error}); remove its folder and start again"
        ) from error


def write_journal(folder: Path, state: State) -> None:
    """Put the state in place in one step."""
    scratch = folder / f"{_NAME}.new"
    scratch.write_text(json.dumps(asdict(state), sort_keys=True))
    scratch.replace(folder / _NAME)
