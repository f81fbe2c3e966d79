"""Exceptions to a plan: other types for some layers."""

from __future__ import annotations

from dataclasses import dataclass

from tqcli.errors import UsageError
from tqcli.plan.types import SIDES, SideType, parse_type


@dataclass(frozen=True)
class LayerRule:
    """Another type for some layers; a side that is None stays as it is."""

    layers: frozenset[int]
    k: SideType | None = None
    v: SideType | None = None

    def __str__(self) -> str:
        """As one writes it: ``0-1,27:k=q8_0``."""
        sides = [f"{s}={t}" for s in SIDES if (t := getattr(self, s)) is not None]
        return f"{layer_spans(self.layers)}:{','.join(sides)}"


def parse_rule(text: str) -> LayerRule:
    """``0-1:k=q8_0``, ``0,3,27:k=q8_0,v=f16``.

    Raises
    ------
    UsageError
        If it is no such rule.

    Examples
    --------
    >>> str(parse_rule("2,0-1,27:k=q8_0"))
    '0-2,27:k=q8_0'
    """
    where, _, what = text.partition(":")
    try:
        layers = frozenset(layer for part in where.split(",") for layer in _span(part))
        pairs = [part.split("=") for part in what.split(",")]
        sides: dict[str, str] = dict(pairs)
        if not sides.keys() <= set(SIDES) or not all(sides.values()) or len(sides) < len(pairs):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--layer {text!r}; write LAYERS:SIDE=TYPE, as in 0-1:k=q8_0 or 0,27:k=q8_0,v=f16"
        ) from None
    return LayerRule(layers, **{s: parse_type(sides[s], s) for s in SIDES if s in sides})


# No model has more; a range is made whole before it is held against the model.
_MAX_LAYERS = 100_000


def _span(text: str) -> range:
    first, dash, last = text.partition("-")
    start = int(first)
    stop = int(last) if dash else start
    if not 0 <= start <= stop < _MAX_LAYERS:
        raise ValueError
    return range(start, stop + 1)


def layer_spans(layers: frozenset[int]) -> str:
    """Layers as one writes them: ``0-2,27``."""
    spans: list[list[int]] = []
    for layer in sorted(layers):
        if spans and layer == spans[-1][1] + 1:
            spans[-1][1] = layer
        else:
            spans.append([layer, layer])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
