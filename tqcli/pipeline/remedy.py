"""The cheapest cache plan that cures what is at fault, found by measuring plans on the dump."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from tqcli.errors import InputError, UsageError
from tqcli.kv.dump import Dump
from tqcli.metrics.verdict import cured
from tqcli.pipeline.attention import LEAST_POSITIONS, AttentionOptions, evaluate_attention
from tqcli.pipeline.candidate import plan_candidates
from tqcli.pipeline.evaluate import evaluate
from tqcli.pipeline.pieces import Nonfinite
from tqcli.plan.bits import SideShape, plan_bytes
from tqcli.plan.plan import Plan
from tqcli.plan.rules import LayerRule
from tqcli.plan.tokens import SINKS
from tqcli.plan.types import CENTER, Side, SideType

# What engines offer for single layers.
LADDER = ("turbo3", "turbo4", "q4_0+rot", "q5_0", "q5_1", "q8_0", "f16")
TAIL = 32  # float tokens at the end that most of the gain of a tail comes from


@dataclass(frozen=True)
class Remedy:
    """A plan under which nothing is at fault.

    Attributes
    ----------
    plan : Plan
    bits_per_value : float
        Of K and V together, at the dump's length.
    sums : dict
        By side, the measured output errors of the layers in sum; None without queries.
    """

    plan: Plan
    bits_per_value: float
    sums: Mapping[str, float | None]

    def __str__(self) -> str:
        """The plan, what it costs, what was measured, and the flags that make it."""
        known = [f"{side.upper()} {total:.2g}" for side, total in self.sums.items() if total]
        left = f", output errors in sum {', '.join(known)}" if known else ""
        flags = shlex.join(self.plan.flags())
        return f"{self.plan} ({self.bits_per_value:.3g} bits{left}): {flags}"


def find_remedy(
    dump: Dump,
    plan: Plan,
    faults: Mapping[str, Sequence[int]],
    *,
    nonfinite: Nonfinite = "error",
) -> Remedy | None:
    """Change what is at fault, the cheapest change first, until every layer is fine.

    Changes of a side are tried in the order of the bytes that the plan then takes at the dump's
    length: K centred with its first tokens in float, the same with a float tail, dearer types for
    the layers at fault. Each is measured on the whole dump.

    Parameters
    ----------
    dump : Dump
    plan : Plan
        The one at fault.
    faults : mapping
        By side, the layers at fault.
    nonfinite : {"error", "zero", "skip"}

    Returns
    -------
    Remedy or None
        None where a side is not cured by any of them.
    """
    length = max(tensor.shape[0] * tensor.shape[2] for tensor in dump.kv())
    shapes = [
        SideShape(t.layer, "k" if t.side == "k" else "v", t.shape[1], t.shape[3]) for t in dump.kv()
    ]
    for side, layers in faults.items():
        changes = _changes(plan, "k" if side == "k" else "v", layers)
        for changed in _by_size(changes, shapes, length):
            rows = [r for r in _measured(dump, changed, nonfinite) if r["side"] == side]
            if rows and cured(rows):
                plan = changed
                break
        else:
            return None
    rows = _measured(dump, plan, nonfinite)
    sums = {side: _sum(row for row in rows if row["side"] == side) for side in "kv"}
    values = sum(shape.heads * shape.head_dim for shape in shapes) * length
    return Remedy(plan, 8 * plan_bytes(plan, shapes, length) / values, sums)


def _changes(plan: Plan, side: Side, layers: Sequence[int]) -> Iterator[Plan]:
    """Plans that differ in what is done for one side."""
    sinks = max(plan.keep_first, SINKS)
    if side == "k" and plan.k.quantizes:
        k = SideType(plan.k.name, (CENTER,), plan.k.codebook)
        centred = replace(plan, k=k, keep_first=sinks, label="")
        yield centred
        yield replace(centred, keep_last=max(plan.keep_last, TAIL))
    if side == "v":
        yield replace(plan, keep_first=sinks, label="")
    for name in LADDER:
        rule = LayerRule(frozenset(layers), **{side: SideType(name)})
        yield replace(plan, rules=(*plan.rules, rule), label="")


def _by_size(plans: Iterable[Plan], shapes: Sequence[SideShape], length: int) -> list[Plan]:
    """Plans whose formats can hold such heads, by the bytes that they take."""
    sized: list[tuple[int, int, Plan]] = []
    for at, plan in enumerate(plans):
        with suppress(InputError):
            sized.append((plan_bytes(plan, shapes, length), at, plan))
    return [plan for _, _, plan in sorted(sized, key=lambda one: one[:2])]


def _sum(rows: Iterable[Mapping[str, Any]]) -> float | None:
    errors = [row.get("output_error") for row in rows]
    known = [error for error in errors if error is not None]
    return float(sum(known)) if known and len(known) == len(errors) else None


def _measured(dump: Dump, plan: Plan, nonfinite: Nonfinite) -> list[dict[str, Any]]:
    """Figures of every layer and side; none where the plan cannot hold a value of the dump."""
    try:
        (candidate,) = plan_candidates(dump, [plan], nonfinite=nonfinite)
        options = AttentionOptions(LEAST_POSITIONS)
        attention = evaluate_attention(dump, candidate, options, nonfinite=nonfinite)
        if attention.layers:
            return [
                {"side": side, **attention.figures(layer, side)}
                for layer in attention.layers
                for side in "kv"
            ]
        rows = evaluate(dump, candidate, nonfinite=nonfinite).rows()
        return [row for row in rows if row["layer"] != "all"]
    except (InputError, UsageError):
        return []
