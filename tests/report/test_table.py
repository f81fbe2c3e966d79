"""Which columns a table keeps, and how cells fold."""

from __future__ import annotations

from typing import Any

import pytest

from tqcli.report.figures import ROWS, Figure
from tqcli.report.table import cell_width, fit, fold, heading, line

KEYS = ("name", "side", "bits_per_value", "nmse", "cosine_p1", "cosine_z", "verdict")
ROW: dict[str, Any] = {
    "name": "turbo3+center/turbo3, first 4 float",
    "side": "k",
    "bits_per_value": 3.125,
    "nmse": 0.0279,
    "cosine_p1": 0.975,
    "cosine_z": 12.0,
    "verdict": "collapse",
}


def figures() -> list[Figure]:
    """The columns of the tests."""
    return [ROWS[key] for key in KEYS]


def keys(room: int | None) -> list[str]:
    """What is left of them."""
    return [figure.key for figure, _ in fit(figures(), [ROW], room).columns]


def test_everything_where_there_is_room() -> None:
    """A pipe has no width; a name stands on one line."""
    layout = fit(figures(), [ROW], None)
    assert [figure.key for figure, _ in layout.columns] == list(KEYS)
    assert len(line(layout, ROW)) == 1
    assert layout.left_out == ()


def test_columns_go_by_rank() -> None:
    """The least telling column first; what identifies a row and the verdict never."""
    gone = []
    for room in range(100, 9, -1):
        gone += [key for key in KEYS if key not in keys(room) and key not in gone]
    assert gone == ["cosine_z", "cosine_p1", "bits_per_value", "nmse"]
    assert keys(10) == ["name", "side", "verdict"]


@pytest.mark.parametrize("room", [30, 40, 60, 80, 100])
def test_lines_keep_to_the_room(room: int) -> None:
    """Columns and folded names are no wider than the window, and no letter is lost."""
    layout = fit(figures(), [ROW], room)
    assert layout.width <= room
    lines = line(layout, ROW)
    assert all(sum(len(text) for _, text in cells) <= room for cells in lines)
    assert all(cell_width(text) <= room for text in heading(layout))
    told = "".join(text for cells in lines for key, text in cells if key == "name")
    assert told.replace(" ", "") == ROW["name"].replace(" ", "")


def test_what_is_left_out_is_known() -> None:
    """Kept and left out together are all, in order."""
    layout = fit(figures(), [ROW], 50)
    kept = [figure.key for figure, _ in layout.columns]
    assert sorted([*kept, *(f.key for f in layout.left_out)]) == sorted(KEYS)
    assert [f.key for f in layout.left_out] == [key for key in KEYS if key not in kept]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("turbo3", 10, ["turbo3"]),
        ("", 10, [""]),
        ("layers.0-27.k", 8, ["layers.", "0-27.k"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("bits per value", 5, ["bits", "per", "value"]),
        ("数値数値", 4, ["数値", "数値"]),
    ],
)
def test_fold(text: str, width: int, lines: list[str]) -> None:
    """Behind spaces and marks, within a word only if it must; wide characters count twice."""
    assert fold(text, width) == lines


def test_sentences_are_cut_at_spaces_alone() -> None:
    """A minus sign or a point in a number is no place to cut."""
    assert fold("-0.19 -0.12", 6, marks=False) == ["-0.19", "-0.12"]
