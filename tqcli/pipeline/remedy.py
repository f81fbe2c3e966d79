"""The cheapest cache type that cures the layers at fault, found by measuring it on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqcli import codecs
from tqcli.errors import InputError
from tqcli.kv.dump import Dump
from tqcli.pipeline.attention import LEAST_POSITIONS, AttentionOptions, evaluate_attention
from tqcli.pipeline.candidate import plan_candidates
from tqcli.pipeline.evaluate import evaluate
from tqcli.pipeline.pieces import Nonfinite
from tqcli.plan.grammar import parse_plan

# What engines offer, tried from few bits a value to many.
LADDER = ("turbo3", "turbo4", "q4_0+rot", "q5_0", "q5_1", "q8_0", "f16")
Accept = Callable[[Sequence[Mapping[str, Any]]], bool]


@dataclass(frozen=True)
class Remedy:
    """A type under which the layers are accepted, and their rows of figures."""

    side: str
    layers: tuple[int, ...]
    type: str
    bits_per_value: float
    rows: Sequence[Mapping[str, Any]]


def find_remedy(
    dump: Dump,
    side: str,
    layers: Sequence[int],
    accept: Accept,
    *,
    above: float | None = None,
    nonfinite: Nonfinite = "error",
) -> Remedy | None:
    """Try dearer types on one side of some layers until `accept` takes all of them.

    Parameters
    ----------
    dump : Dump
    side : {"k", "v"}
    layers : sequence of int
        With the worst first, a type that fails is given up soon.
    accept : function
        Given the rows of some of the layers, whether their figures will do.
    above : float, optional
        Bits per value of the type at fault; only dearer ones are tried.
    nonfinite : {"error", "zero", "skip"}
    """
    tensor = dump.get(layers[0], side)
    if tensor is None:
        return None
    for bits, name in _ladder(side, tensor.shape[3], above):
        rows: list[dict[str, Any]] = []
        for layer in layers:
            row = _row(dump, side, layer, name, nonfinite)
            if row is None or not accept([*rows, row]):
                break
            rows.append(row)
        else:
            return Remedy(side, tuple(sorted(layers)), name, bits, rows)
    return None


def _ladder(side: str, head_dim: int, above: float | None) -> list[tuple[float, str]]:
    """Types that can hold such a head, by bits per value."""
    steps = []
    for name in LADDER:
        try:
            made = codecs.codec(name, side=side, head_dim=head_dim)
            bits = made.bits_per_value(head_dim)
        except InputError:
            continue
        if above is None or bits > above:
            steps.append((bits, name))
    return sorted(steps, key=lambda step: step[0])


def _row(
    dump: Dump, side: str, layer: int, name: str, nonfinite: Nonfinite
) -> dict[str, Any] | None:
    (candidate,) = plan_candidates(dump, [parse_plan(name)], nonfinite=nonfinite)
    try:
        options = AttentionOptions(LEAST_POSITIONS)
        attention = evaluate_attention(
            dump, candidate, options, layers=[layer], nonfinite=nonfinite
        )
        if attention.layers:
            return {"side": side, **attention.figures(layer, side)}
        found = evaluate(dump, candidate, only=[(layer, side)], nonfinite=nonfinite)
        return found.rows()[0]
    except InputError:  # a value that this type cannot hold
        return None
