"""What a plan costs: bytes, and bits per value at any length of text.

With the first and last tokens in float16 and the rest at b bits, n tokens take
``(first + last) (16 - b) / n + b`` bits a value; b counts norms and padding, and a mean of K, one
float16 for each value of a head, adds ``16 / n``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tqcli.plan.plan import Plan
from tqcli.plan.types import Side

# Lengths at which plans are compared, in tokens: what is kept in float weighs less in each.
LENGTHS = (1024, 8192, 131_072)
HALF = 2  # bytes of a float16


@dataclass(frozen=True)
class SideShape:
    """Heads and their size, of one side of one layer."""

    layer: int
    side: Side
    heads: int
    head_dim: int


def side_bytes(plan: Plan, shape: SideShape, length: int) -> int:
    """Bytes that one text of `length` tokens takes in one side of one layer."""
    chosen = plan.type_of(shape.layer, shape.side)
    made = chosen.codecs_for(shape.layer, shape.side, shape.heads, shape.head_dim)
    blocks, size = made.blocks_shape(shape.head_dim)
    kept = min(plan.keep_first + plan.keep_last, length) if chosen.quantizes else 0
    floats = (kept + chosen.center) * shape.head_dim * HALF
    return shape.heads * ((length - kept) * blocks * size + floats)


def plan_bytes(plan: Plan, shapes: Iterable[SideShape], length: int) -> int:
    """Bytes that one text of `length` tokens takes."""
    return sum(side_bytes(plan, shape, length) for shape in shapes)


def bits_per_value(plan: Plan, shapes: Iterable[SideShape], length: int) -> float:
    """Stored bits for each value of one text of `length` tokens; means and padding included.

    Parameters
    ----------
    plan : Plan
    shapes : iterable of SideShape
        What counts: K, V, or both, of the layers in question.
    length : int
        In tokens, at least 1.

    Raises
    ------
    InputError
        If a format cannot hold such heads.

    Examples
    --------
    >>> from tqcli.plan.grammar import parse_plan
    >>> plan = parse_plan("turbo3,keep-first=4,keep-last=32")
    >>> shape = SideShape(0, "v", 8, 128)
    >>> [round(bits_per_value(plan, [shape], length), 3) for length in LENGTHS]
    [3.578, 3.182, 3.129]
    """
    shapes = list(shapes)
    values = sum(shape.heads * shape.head_dim for shape in shapes) * length
    return 8 * plan_bytes(plan, shapes, length) / values
