"""Bad arguments reach no kernel: each is one line that says what came and what is legal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tqcli.errors import InputError, UsageError
from tqcli.kernels import attend, choose

Q = np.zeros((2, 128), np.float32)
Q8 = np.zeros((2, 128), np.int8)
SCALE = np.ones(2, np.float32)
W = np.zeros((2, 5), np.float32)
BLOCKS = np.zeros((5, 50), np.uint8)
F16 = np.zeros((5, 128), np.float16)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (Q.astype(np.float64), "q: dtype float64"),
        (Q.astype(">f4"), "q: dtype >f4"),
        (Q[0], r"q: shape \(128,\)"),
        (Q[:, :64], "64 values a query; a multiple of 128"),
        (Q[:, :0], "0 values a query"),
        (Q.tolist(), "q: a list"),
        (np.zeros((2, 256), np.float32), r"blocks: shape \(5, 50\); \(n, 100\)"),
    ],
)
def test_queries(kernel: str, helpers: Any, bad: Any, says: str) -> None:
    """Only float32 rows of whole groups that fit the keys."""
    with pytest.raises(InputError, match=says):
        attend.scores(bad, BLOCKS, helpers.layout(3))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (BLOCKS.astype(np.int8), "blocks: dtype int8"),
        (BLOCKS[:, :49], r"blocks: shape \(5, 49\)"),
        (BLOCKS[:, :0], r"blocks: shape \(5, 0\)"),
        (BLOCKS[0], r"blocks: shape \(50,\)"),
        (bytes(50), "blocks: a bytes"),
    ],
)
def test_blocks(kernel: str, helpers: Any, bad: Any, says: str) -> None:
    """Only uint8 rows of whole groups."""
    layout = helpers.layout(3)
    for call in (
        lambda: attend.scores(Q, bad, layout),
        lambda: attend.scores_int8(Q8, SCALE, bad, layout),
        lambda: attend.weighted_sum(W, bad, layout),
    ):
        with pytest.raises(InputError, match=says):
            call()


def test_one_weight_a_value(kernel: str, helpers: Any) -> None:
    """As many weights as values, packed or not."""
    with pytest.raises(InputError, match="4 rows; 5, one a weight"):
        attend.weighted_sum(W, BLOCKS[:4], helpers.layout(3))
    with pytest.raises(InputError, match="4 rows; 5, one a weight"):
        attend.weighted_sum_f16(W, F16[:4])


@pytest.mark.parametrize("bad", [F16.astype(np.float32), F16[:, :65], F16[:, :0], F16[0]])
def test_float16_rows(kernel: str, bad: Any) -> None:
    """Only float16 rows of a multiple of 64 values."""
    with pytest.raises(InputError, match=r"keys: (dtype|shape)"):
        attend.scores_f16(Q, bad)
    with pytest.raises(InputError, match=r"values: (dtype|shape)"):
        attend.weighted_sum_f16(W, bad)


def test_int8_queries(kernel: str, helpers: Any) -> None:
    """-128 has no counterpart, and every query has a scale."""
    layout = helpers.layout(3)
    with pytest.raises(InputError, match="q8: -128; -127 to 127"):
        attend.scores_int8(Q8 - np.int8(127) - np.int8(1), SCALE, BLOCKS, layout)
    for scale in (SCALE[:1], 1.0, SCALE[:, None]):
        with pytest.raises(InputError, match="scale"):
            attend.scores_int8(Q8, scale, BLOCKS, layout)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="dtype float32; dtype int8"):
        attend.scores_int8(Q, SCALE, BLOCKS, layout)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_queries(value: float) -> None:
    """A query that is not finite has no scale; the message names it."""
    q = Q.copy()
    q[1, 7] = value
    with pytest.raises(InputError, match="non-finite value in query 1"):
        attend.quantize_query(q)


def test_outputs(kernel: str, helpers: Any) -> None:
    """Only a writable, aligned, contiguous array of the result's shape and of its own memory."""
    layout = helpers.layout(3)
    frozen = np.zeros((2, 5), np.float32)
    frozen.flags.writeable = False
    shared = np.zeros(2 * 128 + 10, np.float32)
    unaligned = np.zeros(41, np.uint8)[1:].view(np.float32).reshape(2, 5)
    for out, says in (
        (np.zeros((5, 2), np.float32), r"\(5, 2\)"),
        (np.zeros((2, 5)), "float64"),
        (np.zeros((5, 2), np.float32).T, "strides"),
        (frozen, "read-only"),
        (unaligned, "unaligned"),
        ([0.0] * 10, "list"),
    ):
        with pytest.raises(InputError, match=says):
            attend.scores(Q, BLOCKS, layout, out=out)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="memory of"):
        attend.scores(
            shared[:256].reshape(2, 128), BLOCKS, layout, out=shared[250:260].reshape(2, 5)
        )
    bytes_of_keys = np.zeros(250, np.uint8)
    keys = bytes_of_keys.reshape(5, 50)
    with pytest.raises(InputError, match="memory of"):
        attend.scores(Q, keys, layout, out=bytes_of_keys[:40].view(np.float32).reshape(2, 5))


@pytest.mark.parametrize("threads", [0, -1])
def test_threads(kernel: str, helpers: Any, threads: int) -> None:
    """At least one thread."""
    if kernel == "numpy":
        pytest.skip("NumPy has threads of its own")
    with pytest.raises(UsageError, match="threads"):
        attend.scores(Q, BLOCKS, helpers.layout(3), threads=threads)


def test_nothing_to_do(kernel: str, helpers: Any) -> None:
    """No queries or no keys give empty scores and sums of zero."""
    layout = helpers.layout(3)
    assert attend.scores(Q[:0], BLOCKS, layout).shape == (0, 5)
    assert attend.scores(Q, BLOCKS[:0], layout).shape == (2, 0)
    assert attend.scores_int8(Q8[:0], SCALE[:0], BLOCKS, layout).shape == (0, 5)
    assert attend.weighted_sum(W[:0], BLOCKS, layout).shape == (0, 128)
    assert np.array_equal(attend.weighted_sum(W[:, :0], BLOCKS[:0], layout), np.zeros((2, 128)))
    assert np.array_equal(attend.weighted_sum_f16(W[:, :0], F16[:0]), np.zeros((2, 128)))


def test_the_extension_checks_lengths_again(native: str, helpers: Any) -> None:
    """Lengths that do not agree are refused below Python as well, before anything is read."""
    from tqcli.kernels import layout_capsule

    extension, index = choose.native, choose.index()
    capsule, out = layout_capsule(helpers.layout(3)), np.zeros((2, 5), np.float32)
    sums = np.zeros((1, 2, 128))
    assert extension is not None
    for arguments in (
        (index, capsule, 3, Q, BLOCKS, out, 0),
        (index, capsule, 0, Q, BLOCKS, out, 0),
        (index, capsule, 2, Q[:, :64].copy(), BLOCKS, out, 0),
        (index, capsule, 2, Q, BLOCKS.ravel()[1:].copy(), out, 0),
        (index, capsule, 2, Q, BLOCKS, out, 1),
        (index, capsule, 2, Q, BLOCKS, out, -1),
        (99, capsule, 2, Q, BLOCKS, out, 0),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            extension.scores(*arguments)
    for slab, first, dim, target in (
        (0, 0, 128, sums),
        (4, 0, 128, sums),
        (5, 1, 128, sums),
        (5, 0, 64, sums),
        (5, 0, 128, sums[:, :1].copy()),
    ):
        with pytest.raises(ValueError, match=r"\w"):
            extension.weighted_sum(index, capsule, 2, dim, slab, W, first, BLOCKS, target)
