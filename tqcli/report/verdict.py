"""What a row's figures mean for the model: fine, degraded or collapse, and by which number.

Thresholds and the runs that they come from stand in ``docs/measures.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqcli.words import spans

FINE, DEGRADED, COLLAPSE = LEVELS = ("fine", "degraded", "collapse")


@dataclass(frozen=True)
class Rule:
    """Two limits of one figure: from `degraded` on, and from `collapse` on."""

    figure: str
    words: str
    degraded: float
    collapse: float

    def level(self, value: float) -> str:
        """The level that a value means."""
        if value >= self.collapse:
            return COLLAPSE
        return DEGRADED if value >= self.degraded else FINE

    def because(self, value: float) -> str:
        """The number that decided, beside the limit it was held against."""
        level = self.level(value)
        if level == FINE:
            return f"{self.words} {value:.2g} < {self.degraded:g}"
        limit = self.collapse if level == COLLAPSE else self.degraded
        return f"{self.words} {value:.2g} >= {limit:g}"


# One side of one layer, by the energy of the attention output's error over that of the output.
LAYER = Rule("output_error", "output error", 0.12, 0.75)
# The same, summed over the layers of the dump.
MODEL = Rule("output_error", "output error summed over layers", 1.8, 12.0)
# Without queries: K by the error that centring leaves, V by its plain error.
CENTRED = Rule("centred_nmse", "centred nmse of K", 0.2, 1.0)
PLAIN = Rule("nmse", "nmse of V", 0.07, 0.75)


@dataclass(frozen=True)
class Verdict:
    """A level and the number behind it."""

    level: str
    by: str

    @property
    def rank(self) -> int:
        """0 fine, 1 degraded, 2 collapse."""
        return LEVELS.index(self.level)


def judge(row: Mapping[str, Any]) -> Verdict | None:
    """The verdict on the row of one layer and side; None where it has no figure to judge by."""
    rules = (LAYER, CENTRED) if row["side"] == "k" else (LAYER, PLAIN)
    for rule in rules:
        value = row.get(rule.figure)
        if value is not None:
            return Verdict(rule.level(value), rule.because(value))
    return None


def judge_all(rows: Sequence[dict[str, Any]]) -> None:
    """Add ``verdict`` and ``verdict_by`` to every row.

    The row of a side over all layers gets the worst verdict of its layers, or that of the sum
    where the sum is as bad.
    """
    for row in rows:
        _put(row, None if row["head"] is not None or row["layer"] == "all" else judge(row))
    for row in rows:
        judged = _layers(rows, row["side"]) if row["layer"] == "all" else []
        if not judged:
            continue
        worst = Verdict(judged[0]["verdict"], judged[0]["verdict_by"])
        total = row.get(MODEL.figure)
        if total is not None and LEVELS.index(MODEL.level(total)) >= worst.rank:
            _put(row, Verdict(MODEL.level(total), MODEL.because(total)))
        else:
            _put(row, Verdict(worst.level, f"layer {judged[0]['layer']}: {worst.by}"))


def faults(rows: Sequence[Mapping[str, Any]], side: str) -> list[int]:
    """Layers of one side that are to blame, the worst first.

    Those that are not fine by themselves; all of them, where the sum of the fine ones alone is
    more than a model should bear.
    """
    layers = _layers(rows, side)
    blamed = [row for row in layers if row["verdict"] != FINE]
    fine = sum(row.get(MODEL.figure) or 0.0 for row in layers if row["verdict"] == FINE)
    return [int(row["layer"]) for row in (layers if fine >= MODEL.degraded else blamed)]


def cured(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these rows of one side of some layers are fine, each and in sum."""
    verdicts = [judge(row) for row in rows]
    total = sum(row.get(MODEL.figure) or 0.0 for row in rows)
    return total < MODEL.degraded and all(v is not None and v.level == FINE for v in verdicts)


def conclude(rows: Sequence[Mapping[str, Any]], remedies: Mapping[str, str | None]) -> str:
    """The last line: the verdict on the whole, the layers at fault, the cheapest remedy.

    Parameters
    ----------
    rows : sequence of mapping
        Judged by :func:`judge_all`.
    remedies : mapping
        For each side at fault, what cures it in words, or None where nothing did.
    """
    sides = [(row["side"], v) for row in rows if row["layer"] == "all" if (v := _given(row))]
    if not sides:
        return "verdict: none, there is nothing to judge by"
    worst = max((verdict for _, verdict in sides), key=lambda verdict: verdict.rank)
    if worst.level == FINE:
        shown = ", ".join(f"{side.upper()} {verdict.by}" for side, verdict in sides)
        return f"verdict: fine; {shown}"
    parts = []
    for side, verdict in sides:
        if verdict.level == FINE:
            continue
        layers = faults(rows, side)
        place = f"{side.upper()} of {name_layers(layers)}" if layers else f"{side.upper()}"
        parts.append(f"{place} ({verdict.level}: {verdict.by})")
    cures = [
        f"{text}" if text else f"none of the known types for {side.upper()}"
        for side, text in remedies.items()
    ]
    tail = f"; cheapest remedy measured: {', '.join(cures)}" if cures else ""
    return f"verdict: {worst.level}; at fault: {', '.join(parts)}{tail}"


def name_layers(layers: Sequence[int]) -> str:
    """Layers in words.

    Examples
    --------
    >>> name_layers([1, 0, 2, 7]), name_layers([3])
    ('layers 0-2, 7', 'layer 3')
    """
    return f"layer{'s' if len(layers) > 1 else ''} {', '.join(spans(layers))}"


def severity(row: Mapping[str, Any]) -> tuple[int, float]:
    """What rows of layers are ordered by: the level, then the figure that it was judged by."""
    level = row.get("verdict")
    known = (row.get(rule.figure) for rule in (LAYER, CENTRED, PLAIN))
    figure = next((value for value in known if value is not None), 0.0)
    return -1 if level is None else LEVELS.index(level), float(figure)


def _layers(rows: Sequence[Mapping[str, Any]], side: str) -> list[Mapping[str, Any]]:
    """Judged rows of the layers of one side, the worst first."""
    own = [r for r in rows if r["side"] == side and r["layer"] != "all" and r["verdict"]]
    return sorted(own, key=severity, reverse=True)


def _put(row: dict[str, Any], verdict: Verdict | None) -> None:
    row["verdict"] = None if verdict is None else verdict.level
    row["verdict_by"] = None if verdict is None else verdict.by


def _given(row: Mapping[str, Any]) -> Verdict | None:
    level = row.get("verdict")
    return None if level is None else Verdict(level, row["verdict_by"])
