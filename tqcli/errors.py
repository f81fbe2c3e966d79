"""What can go wrong, as types. Library code raises these; only ``cli.main`` catches them."""

from __future__ import annotations

import os


class TqError(Exception):
    """Base of every error that tq raises on purpose; its text is one line for the user."""

    exit_code = 3

    def __str__(self) -> str:
        """The message on one line, whatever names from foreign files stand in it."""
        return " ".join(super().__str__().split())


class GateError(TqError):
    """A ``--fail-if`` condition holds."""

    exit_code = 1


class UsageError(TqError):
    """The request itself is wrong: an unknown name, options that exclude each other."""

    exit_code = 2


class InputError(TqError):
    """A file or an array is not what it must be."""

    exit_code = 3


def input_error(where: str | os.PathLike[str], came: str, legal: str, todo: str = "") -> InputError:
    """Build the house's one-line message: where, what came, what is legal, what to do."""
    tail = f"; {todo}" if todo else ""
    return InputError(f"{os.fspath(where)}: {came}; {legal}{tail}")


def quoted(value: object, limit: int = 80) -> str:
    """A value from a foreign file for an error message: on one line and not endless."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
