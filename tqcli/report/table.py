"""A table as lines of text: which columns fit, headings of several lines, cells that fold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqcli.report.figures import PROSE, Figure

GAP = 2
# A name or a sentence keeps so many characters of a line before figures have to go, and so few
# when nothing else is left to go.
_NAME, _SENTENCE, _LEAST = 24, 30, 8
_HEADING_LINES = 4
_WORDS = re.compile(r"\S+\s*")
# A name may also be cut behind a mark.
_PARTS = re.compile(r"[^\s/+,.|_-]*[/+,.|_-]?\s*")


@dataclass(frozen=True)
class Layout:
    """Columns with their widths, and those that there was no room for."""

    columns: Sequence[tuple[Figure, int]]
    left_out: Sequence[Figure]

    @property
    def width(self) -> int:
        """Characters of a line."""
        return sum(width + GAP for _, width in self.columns) - GAP


def fit(figures: Sequence[Figure], rows: Sequence[Mapping[str, Any]], room: int | None) -> Layout:
    """Choose columns for a line of `room` characters.

    Columns are left out whole, the largest rank first. Those of rank 0 stay: where they alone are
    too wide, names fold.

    Parameters
    ----------
    figures : sequence of Figure
    rows : sequence of mapping
    room : int or None
        None: as wide as it gets.
    """
    full = {f.key: _natural(f, rows) for f in figures}
    if room is None:
        return Layout([(f, full[f.key]) for f in figures], ())
    widths = {f.key: min(full[f.key], _soft_limit(f)) for f in figures}
    kept = list(figures)

    def excess() -> int:
        return sum(widths[f.key] + GAP for f in kept) - GAP - room

    while excess() > 0 and any(f.rank for f in kept):
        kept.remove(max(kept, key=lambda f: (f.rank, kept.index(f))))
    texts = [f for f in kept if not f.is_number]
    while excess() > 0 and (wide := [f for f in texts if widths[f.key] > _LEAST]):
        widths[max(wide, key=lambda f: widths[f.key]).key] -= 1
    for figure in sorted(texts, key=lambda f: f.style == PROSE):  # what is left over
        spare = max(-excess(), 0)
        widths[figure.key] = min(full[figure.key], widths[figure.key] + spare)
    left_out = [f for f in figures if f not in kept]
    return Layout([(f, widths[f.key]) for f in kept], left_out)


def _natural(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> int:
    cells = [cell_width(figure.cell(row)) for row in rows]
    words = [len(word) for word in figure.title.split()]
    # Few lines of heading are better than a narrow column.
    least = max([*words, *cells])
    while len(fold(figure.title, least)) > _HEADING_LINES:
        least += 1
    return least


def _soft_limit(figure: Figure) -> int:
    if figure.is_number:
        return 1 << 30
    return _SENTENCE if figure.style == PROSE else _NAME


def heading(layout: Layout) -> list[str]:
    """Lines of the heading, the words at the bottom."""
    stacks = [fold(figure.title, width) for figure, width in layout.columns]
    height = max(map(len, stacks))
    return list(_lines(layout, [[""] * (height - len(s)) + s for s in stacks]))


def line(layout: Layout, row: Mapping[str, Any]) -> list[list[tuple[str, str]]]:
    """A row as lines of (key, padded text)."""
    stacks = [
        fold(figure.cell(row), width, marks=figure.style != PROSE)
        for figure, width in layout.columns
    ]
    height = max(map(len, stacks))
    return [
        [
            (figure.key, _pad(stack[at] if at < len(stack) else "", figure, width))
            for stack, (figure, width) in zip(stacks, layout.columns, strict=True)
        ]
        for at in range(height)
    ]


def _lines(layout: Layout, stacks: list[list[str]]) -> Iterator[str]:
    for parts in zip(*stacks, strict=True):
        padded = (_pad(part, *column) for part, column in zip(parts, layout.columns, strict=True))
        yield (" " * GAP).join(padded).rstrip()


def _pad(text: str, figure: Figure, width: int) -> str:
    blank = " " * (width - cell_width(text))
    return blank + text if figure.is_number else text + blank


def fold(text: str, width: int, *, marks: bool = True) -> list[str]:
    """Cut text into lines, behind spaces and (in names) marks; within a word only if it must.

    Examples
    --------
    >>> fold("turbo3+center/turbo3, first 4 float", 16)
    ['turbo3+center/', 'turbo3, first 4', 'float']
    """
    lines = [""]
    for word in filter(None, (_PARTS if marks else _WORDS).findall(text)):
        if cell_width(lines[-1]) + cell_width(word.rstrip()) > width and lines[-1]:
            lines.append("")
        if cell_width(word.rstrip()) > width:
            lines += _chopped(word, width)
        else:
            lines[-1] += word
    return [part.rstrip() for part in lines if part.strip()] or [""]


def _chopped(word: str, width: int) -> list[str]:
    from rich.cells import chop_cells

    return chop_cells(word, width)


def cell_width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    from rich.cells import cell_len

    return len(text) if text.isascii() else cell_len(text)
