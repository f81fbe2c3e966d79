"""What is known of one key of a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

PROSE = "prose"
BYTES = "bytes"


@dataclass(frozen=True)
class Figure:
    """One key of a report: how it is called, computed, written and ranked.

    Parameters
    ----------
    key : str
        In the JSON and CSV; in the heading with spaces for underscores.
    formula : str
        How it is computed, or what it says.
    unit : str
        Empty for a ratio and for text.
    range : str
        Values that occur.
    style : str
        A format specification for numbers (``.4f``, ``.3g``, ``d``, ``.1%``), ``bytes``, ``prose``
        for text that may fold, or empty for names.
    rank : int
        0 identifies a row or judges it and is never left out; where a terminal is too narrow,
        columns with the largest rank go first.
    also : tuple of str
        Other names that ``--fail-if`` and ``--columns`` take.
    heading : str
        Where it is not the key with spaces.
    adds : bool
        Rows that are summed up have the sum of it.
    source : str
        The module of ``tqcli`` that computes it, or the page that defines it.
    reports : tuple of str
        Commands in whose reports it occurs.
    """

    key: str
    formula: str
    unit: str = ""
    range: str = ""
    style: str = ""
    rank: int = 3
    also: tuple[str, ...] = ()
    heading: str = ""
    adds: bool = False
    source: str = ""
    reports: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The heading of its column."""
        return self.heading or self.key.replace("_", " ")

    @property
    def is_number(self) -> bool:
        """Whether a condition can be set on it."""
        return self.style not in ("", PROSE)

    @property
    def names(self) -> tuple[str, ...]:
        """All that ``--fail-if`` and ``--columns`` take for it, spaces as underscores."""
        return tuple(dict.fromkeys((self.key, self.title.replace(" ", "_"), *self.also)))

    def cell(self, row: Mapping[str, Any]) -> str:
        """The text of a row's cell; nothing where there is no figure."""
        value = row.get(self.key)
        if value is None:
            return ""
        if not self.is_number or isinstance(value, str):
            return str(value)
        if self.style == BYTES:
            return human_bytes(value)
        # A saved report may hold a fraction where tq writes whole numbers.
        whole = self.style != "d" or isinstance(value, int)
        return format(value, self.style if whole else ".6g")


def group(source: str, reports: tuple[str, ...], *figures: Figure) -> tuple[Figure, ...]:
    """Figures of one source that occur in the same reports, unless one says otherwise."""
    return tuple(
        replace(f, source=f.source or source, reports=f.reports or reports) for f in figures
    )


def human_bytes(count: float) -> str:
    """Bytes in binary units: ``4.0 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
