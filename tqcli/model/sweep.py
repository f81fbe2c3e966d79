"""How much each layer costs: one quantized at a time, or all but one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqcli.errors import UsageError
from tqcli.model.score import Row, Scores
from tqcli.model.subject import Subject
from tqcli.plan.plan import Plan

ONE, ALL_BUT_ONE = "layers", "all-but-one"
KINDS = (ONE, ALL_BUT_ONE)


def cached_layers(subject: Subject) -> list[int]:
    """Layers of the model that hold K and V."""
    from tqcli.sources.hf.layers import plan_layers

    return sorted(plan_layers(subject.model.config).kinds)


def sweep_plans(plan: Plan, layers: Sequence[int], kind: str) -> list[Plan]:
    """The plan itself, and one more for each layer.

    Parameters
    ----------
    plan : Plan
    layers : sequence of int
        All layers with K and V.
    kind : {"layers", "all-but-one"}
        Which layers are quantized: the one alone, or all others.

    Raises
    ------
    UsageError
        If `kind` is neither.
    """
    if kind not in KINDS:
        raise UsageError(f"--sweep {kind}; {' and '.join(KINDS)} are legal")
    every = frozenset(layers)
    plans = [plan]
    for layer in layers:
        quantized = frozenset({layer}) if kind == ONE else every - {layer}
        plans.append(plan.only(quantized, every, _label(layer, kind)))
    return plans


def sweep_rows(scores: Scores, layers: Sequence[int], kind: str) -> list[Row]:
    """The rows of a sweep's scores, with ``layer`` where a row speaks of one."""
    numbers = {_label(layer, kind): layer for layer in layers}
    return [{"layer": numbers.get(row["name"]), **row} for row in scores.rows()]


def explain_sweep(rows: Sequence[Row], kind: str, most: int = 3) -> list[str]:
    """Name the layers that matter most, in each mode."""
    notes = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        mine = [row for row in rows if row["mode"] == mode and row["layer"] is not None]
        mine.sort(key=lambda row: row["kl_mean"], reverse=kind == ONE)
        named = ", ".join(f"{row['layer']} (KL {row['kl_mean']:.3g})" for row in mine[:most])
        what = "costs most alone" if kind == ONE else "saves most when left float"
        notes.append(f"{mode}: {what}: layers {named}")
    return notes


def _label(layer: int, kind: str) -> str:
    return f"layer {layer} only" if kind == ONE else f"all but layer {layer}"


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """KL by layer and mode, for plots: ``{mode: {layer: kl_mean}}``."""
    found: dict[str, Any] = {}
    for row in rows:
        if row["layer"] is not None:
            found.setdefault(row["mode"], {})[str(row["layer"])] = row["kl_mean"]
    return found
