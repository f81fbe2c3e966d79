"""``--fail-if``: conditions on the figures of a report."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqcli.errors import GateError, UsageError
from tqcli.report.figures import ROWS, find
from tqcli.words import counted, spans

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_LIMIT = r"\s*(?P<operator><=|>=|==|<|>)\s*(?P<limit>\S+)\s*"
_MEASURE = r"(?P<measure>[a-z][a-z0-9_ ]*?)"
# Rows of layers and sides, and rows that speak of K and V together.
_OF_A_SIDE = re.compile(
    r"\s*(?:(?P<where>layers\.(?:[0-9]+|\*))\.)?(?P<side>[kv])\." + _MEASURE + _LIMIT
)
_OF_BOTH = re.compile(r"\s*" + _MEASURE + _LIMIT)
_WITHOUT_SIDES = {"score": "kl_mean>0.02"}
_ATTENTION = "metrics/attention_stats.py"
_EXAMPLE = "k.p1<0.97 or layers.*.k.centred_nmse>0.5"


@dataclass(frozen=True)
class Gate:
    """``k.p1<0.97`` (pooled over layers), ``layers.3.k.nmse>0.1`` or ``layers.*.k.nmse>0.1``.

    In the report of ``tq score``, whose rows have no side, ``kl_mean>0.02``: `side` is empty.
    """

    text: str
    where: str
    side: str
    measure: str
    operator: str
    limit: float

    def failures(self, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """A line for each row in which the condition holds.

        Raises
        ------
        UsageError
            If no row has a figure for the side and measure: nothing to judge is no success.
        """
        found, lines = False, []
        for row in rows:
            value = row.get(self.measure)
            if value is None or not self._covers(row):
                continue
            if isinstance(value, str):
                raise UsageError(f"--fail-if {self.text!r}: {self.measure} is no figure")
            found = True
            if _OPERATORS[self.operator](value, self.limit):
                lines.append(f"{_place(row)}: {self.measure} = {value:.6g}")
        if not found:
            place = ".".join(filter(None, (self.where, self.side)))
            raise UsageError(
                f"--fail-if {self.text!r}: no {self.measure} for {place} here; see the report "
                "with --json"
            )
        return lines

    def names(self, layer: int) -> bool:
        """Whether it speaks of a layer, or of all of them together."""
        return self.where in ("all", "layers.*", f"layers.{layer}")

    def _covers(self, row: Mapping[str, Any]) -> bool:
        if not self.side:
            return True
        layer = row.get("layer")
        if row.get("side") != self.side or row.get("head") is not None:
            return False
        if self.where == "all":
            return bool(layer == "all")
        return isinstance(layer, int) and self.names(layer)


def _place(row: Mapping[str, Any]) -> str:
    """``0.k``, ``all.k (turbo3)`` or, where no side is named, ``turbo3 (prefix)``."""
    name, mode = row.get("name"), row.get("mode")
    if "side" not in row:
        return f"{name} ({mode})" if mode else str(name)
    return f"{row.get('layer')}.{row['side']}" + (f" ({name})" if name is not None else "")


def parse_gate(text: str, report: str = "evaluate") -> Gate:
    """Parse one condition on the report of a command, before any work begins.

    Parameters
    ----------
    text : str
        The measure is a key or a heading of the report (``cosine_p1``, ``cosine p1``) or a short
        name (``p1``).
    report : str
        The command.

    Raises
    ------
    UsageError
        If it is no condition, or the report has no such number; the nearest name is suggested.
    """
    sided = report not in _WITHOUT_SIDES
    match = (_OF_A_SIDE if sided else _OF_BOTH).fullmatch(text)
    try:
        if match is None:
            raise ValueError
        limit = float(match["limit"])
        if not math.isfinite(limit):  # no figure would ever pass it, or fail it
            raise ValueError
    except ValueError:
        example = _WITHOUT_SIDES.get(report, _EXAMPLE)
        raise UsageError(f"--fail-if {text!r}: not a condition; write {example}") from None
    if report == "compare" and match["where"]:
        raise UsageError(
            f"--fail-if {text!r}: the report of tq compare has no rows of layers; write k.nmse>0.1"
        )
    figure = find(match["measure"], report, f"--fail-if {text!r}", numbers=True)
    where, side = (match["where"] or "all", match["side"]) if sided else ("all", "")
    return Gate(text, where, side, figure.key, match["operator"], limit)


def parse_gates(texts: Sequence[str] | None, report: str) -> list[Gate]:
    """Parse every ``--fail-if`` of a command."""
    return [parse_gate(text, report) for text in texts or ()]


def check_places(
    gates: Iterable[Gate], places: Collection[tuple[int, str]], *, attention: bool
) -> None:
    """Find conditions that a dump has nothing for, before it is measured.

    Parameters
    ----------
    gates : iterable of Gate
    places : collection of (layer, side)
        K and V that the dump has.
    attention : bool
        Whether attention will be measured.

    Raises
    ------
    UsageError
    """
    for gate in gates:
        if not any(side == gate.side and gate.names(layer) for layer, side in places):
            have = spans([layer for layer, side in places if side == gate.side])
            raise UsageError(
                f"--fail-if {gate.text!r}: this dump has {gate.side} of layers "
                f"{', '.join(have) or 'none'}"
            )
        if not attention and ROWS[gate.measure].source == _ATTENTION:
            raise UsageError(
                f"--fail-if {gate.text!r}: {gate.measure} needs queries; dump with --queries"
            )


def apply_gates(gates: Iterable[Gate], rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise :class:`GateError` with one line if any condition holds."""
    failed = [
        f"{gate.text}: {counted(len(lines), 'row')}, first {lines[0]}"
        for gate in gates
        if (lines := gate.failures(rows))
    ]
    if failed:
        raise GateError("gate failed: " + "; ".join(failed))
