"""Reports on one screen: tensors that say the same in one row, and the worst layers alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tqcli.report.figures import ROWS
from tqcli.report.result import Brief, Row
from tqcli.words import spans

# Rows that fit a screen of 24 lines with heading and notes.
_SCREEN = 16
_WORST = 5
_MOST_FAULTS = 10
_LAYER = re.compile(r"layers\.(?P<layer>[0-9]+)(?P<rest>.*)")
# Runs of layers beyond this are counted and not listed.
_RUNS = 4
# Differs between tensors that are alike in all that a table shows.
_OWN = ("tensor", "digest")


def alike(rows: Sequence[Row]) -> Brief:
    """Rows of tensors, those equal but for the layer as one, with sums; then the sum of all.

    Parameters
    ----------
    rows : sequence of dict
        With ``tensor``, a name such as ``layers.3.k``.
    """
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        match = _LAYER.fullmatch(row["tensor"])
        same = {k: v for k, v in row.items() if k not in _OWN and not _adds(k)}
        key = (match["rest"] if match else row["tensor"], *map(str, same.items()))
        groups.setdefault(key, []).append(row)
    found = [_sum(group, _name([row["tensor"] for row in group])) for group in groups.values()]
    sums = any(_adds(key) for row in rows for key in row)
    if len(found) > 1 and sums:
        found.append(_sum(rows, "all"))
    return Brief(found, "tensors that are alike are summed up")


def _adds(key: str) -> bool:
    return key in ROWS and ROWS[key].adds


def _sum(rows: Sequence[Row], name: str) -> Row:
    """One row for several: sums of what adds, what they share of the rest."""
    first = rows[0]
    total: Row = {"tensor": name}
    for key in first:
        values = [row.get(key) for row in rows]
        if _adds(key):
            known = [value for value in values if value is not None]
            total[key] = sum(known) if known else None
        elif key not in _OWN and all(value == first[key] for value in values):
            total[key] = first[key]
    if "bits_per_value" in first and "bits_per_value" not in total:
        total["bits_per_value"] = _mean_bits(rows)
    return total


def _mean_bits(rows: Sequence[Row]) -> float | None:
    """Bits per value of all tensors together."""
    values = sum(row["values"] for row in rows)
    bits = sum(row["bits_per_value"] * row["values"] for row in rows if row["values"])
    return bits / values if values else None


def _name(names: Sequence[str]) -> str:
    """``layers.0-27.k`` for the tensors of many layers."""
    matches = [_LAYER.fullmatch(name) for name in names]
    if len(names) == 1 or None in matches:
        return names[0]
    layers = [int(m["layer"]) for m in matches if m]
    rest = matches[0]["rest"] if matches[0] else ""
    runs = spans(layers)
    if len(runs) <= _RUNS:
        return f"layers.{','.join(runs)}{rest}"
    return f"layers.{min(layers)}-{max(layers)}{rest} ({len(layers)})"


def worst(rows: Sequence[Row], severity: Callable[[Row], Any]) -> Brief | None:
    """Rows of an evaluation: those over all layers, the layers at fault, and the five worst.

    Parameters
    ----------
    rows : sequence of dict
        Judged; with rows of heads, the five worst are heads.
    severity : function
        What rows are ordered by.

    Returns
    -------
    Brief or None
        None where all rows fit a screen.
    """
    if len(rows) <= _SCREEN:
        return None
    heads = any(row.get("head") is not None for row in rows)
    layers = [row for row in rows if row["layer"] != "all" and row.get("head") is None]
    faults = [row for row in layers if row.get("verdict") not in (None, "fine")]
    faults.sort(key=severity, reverse=True)
    finest = [row for row in rows if row.get("head") is not None] if heads else layers
    chosen = [*faults[:_MOST_FAULTS], *sorted(finest, key=severity, reverse=True)[:_WORST]]
    chosen += [row for row in rows if row["layer"] == "all"]
    kept = {id(row) for row in chosen}
    more = len(faults) - _MOST_FAULTS
    words = "all layers, the layers at fault" + (f" (less {more})" if more > 0 else "")
    words += f" and the five worst{' heads' if heads else ''}"
    return Brief([row for row in rows if id(row) in kept], words)
