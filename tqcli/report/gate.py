"""``--fail-if``: conditions on the figures of a report."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tqcli.errors import GateError, UsageError

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(
    r"\s*(?:(?P<where>layers\.(?:[0-9]+|\*))\.)?(?P<side>[kv])\.(?P<measure>[a-z_0-9]+)"
    r"\s*(?P<operator><=|>=|==|<|>)\s*(?P<limit>\S+)\s*"
)
# Short names that people type for the ones in the rows.
ALIASES = {
    "p1": "cosine_p1",
    "p01": "cosine_p01",
    "cosine": "cosine_mean",
    "bits": "bits_per_value",
}


@dataclass(frozen=True)
class Gate:
    """``k.p1<0.97`` (pooled over layers), ``layers.3.k.nmse>0.1`` or ``layers.*.k.nmse>0.1``."""

    text: str
    where: str
    side: str
    measure: str
    operator: str
    limit: float

    def failures(self, rows: Iterable[dict[str, Any]]) -> list[str]:
        """A line for each row in which the condition holds.

        Raises
        ------
        UsageError
            If no row has a figure for the side and measure: nothing to judge is no success.
        """
        found, lines, known = False, [], set[str]()
        for row in rows:
            known |= {key for key, value in row.items() if isinstance(value, int | float)}
            if row.get("side") != self.side or row.get("head") is not None:
                continue
            if not self._covers(row.get("layer")) or self.measure not in row:
                continue
            value = row[self.measure]
            if isinstance(value, str):
                raise UsageError(f"--fail-if {self.text!r}: {self.measure} is no figure")
            if value is None:
                continue
            found = True
            if _OPERATORS[self.operator](value, self.limit):
                name = f" ({row['name']})" if "name" in row else ""
                lines.append(f"{row.get('layer')}.{self.side}{name}: {self.measure} = {value:.6g}")
        if not found:
            raise UsageError(
                f"--fail-if {self.text!r}: no such figure here; measures: "
                f"{', '.join(sorted(known))}"
            )
        return lines

    def _covers(self, layer: Any) -> bool:
        if self.where == "all":
            return bool(layer == "all")
        return layer != "all" and self.where in ("layers.*", f"layers.{layer}")


def parse_gate(text: str) -> Gate:
    """Parse one condition."""
    match = _CONDITION.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        limit = float(match["limit"])
        if not math.isfinite(limit):  # no figure would ever pass it, or fail it
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--fail-if {text!r}: not a condition; write k.p1<0.97 or layers.*.k.centred_nmse>0.5"
        ) from None
    measure = ALIASES.get(match["measure"], match["measure"])
    return Gate(text, match["where"] or "all", match["side"], measure, match["operator"], limit)


def apply_gates(gates: Iterable[Gate], rows: list[dict[str, Any]]) -> None:
    """Raise :class:`GateError` with one line if any condition holds."""
    failed = [
        f"{gate.text}: {len(lines)} rows, first {lines[0]}"
        for gate in gates
        if (lines := gate.failures(rows))
    ]
    if failed:
        raise GateError("gate failed: " + "; ".join(failed))
