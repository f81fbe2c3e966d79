"""Bits per value at any length: equal to the formula, and to the bytes that are stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqcli.codecs import codec
from tqcli.plan.bits import LENGTHS, SideShape, bits_per_value, plan_bytes
from tqcli.plan.center import Center
from tqcli.plan.grammar import parse_plan
from tqcli.plan.side import SidePlan
from tqcli.plan.tokens import Tokens


@given(
    st.sampled_from(["turbo3", "turbo2", "q8_0", "turbo3-g64"]),
    st.sampled_from([64, 128, 192]),
    st.integers(0, 64),
    st.integers(0, 64),
    st.integers(130, 100_000),
)
def test_the_formula(name: str, head_dim: int, first: int, last: int, length: int) -> None:
    """((first + last) (16 - b) / n + b), b with norms and padding."""
    plan = parse_plan(f"{name},keep-first={first},keep-last={last}")
    b = codec(name).bits_per_value(head_dim)
    found = bits_per_value(plan, [SideShape(0, "v", 3, head_dim)], length)
    assert found == pytest.approx((first + last) * (16 - b) / length + b, rel=1e-12)


def test_short_texts_are_all_float() -> None:
    """More tokens than there are cannot be kept."""
    plan = parse_plan("turbo3,keep-first=4,keep-last=32")
    assert bits_per_value(plan, [SideShape(0, "v", 3, 128)], 20) == 16


def test_means_count_once_a_text() -> None:
    """One float16 for each value of a head of K."""
    plan = parse_plan("turbo3+center/turbo3")
    shapes = [SideShape(0, "k", 8, 128), SideShape(0, "v", 8, 128)]
    found = [bits_per_value(plan, shapes, length) for length in LENGTHS]
    assert found == [3.125 + 16 / length / 2 for length in LENGTHS]


def test_layers_of_other_types() -> None:
    """The mean over values: layers and sides weigh by their size."""
    plan = parse_plan("turbo3,layers=0:k=q8_0")
    shapes = [SideShape(layer, side, 2, 128) for layer in (0, 1) for side in ("k", "v")]
    assert bits_per_value(plan, shapes, 1024) == (8.5 + 3 * 3.125) / 4


@pytest.mark.parametrize("text", ["turbo3+center/turbo3,keep-first=4,keep-last=9", "f16", "f32"])
def test_what_is_promised_is_what_is_stored(text: str) -> None:
    """The bytes of a plan are those of what it stores, means and floats included."""
    plan, length = parse_plan(text), 50
    values = np.random.default_rng(3).standard_normal((1, 2, length, 80)).astype(np.float32)
    shapes, total = [], 0
    for side in ("k", "v"):
        center = Center(np.ones((2, 80), np.float16), None, "test")
        stored = SidePlan(plan, 0, side, 2, 80, center).store(values, Tokens.of_text(0, length))
        total += stored.nbytes
        shapes.append(SideShape(0, side, 2, 80))
    assert plan_bytes(plan, shapes, length) == total
