"""One side of one layer under a plan: what is stored, what comes back, in whole and in pieces."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqcli import kernels
from tqcli.codebook import CodebookSet, exact_set
from tqcli.codecs import codec
from tqcli.errors import InputError
from tqcli.plan.center import Center
from tqcli.plan.grammar import parse_plan
from tqcli.plan.references import Book
from tqcli.plan.side import Coded, SidePlan
from tqcli.plan.tokens import Tokens
from tqcli.rope import Rope, apply_rope

ROPE = Rope("default", tuple((1e4 ** -(np.arange(16) / 16)).tolist()))
LENGTHS = (30, 5, 41)
TOKENS = Tokens.of_source(
    {"sequence_lengths": list(LENGTHS)},
    np.concatenate([np.arange(n) for n in LENGTHS]).astype(np.int32)[None],
    1,
    sum(LENGTHS),
)
TEXTS = [
    "turbo3", "q8_0", "turbo3+center/turbo3", "turbo3,keep-first=4,keep-last=7",
    "turbo3-g64+center/q8_0,keep-first=4,keep-last=3", "f32+center/f32,keep-first=4",
]  # fmt: skip


def values(*shape: int, seed: int = 4) -> np.ndarray:
    """Normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def side(text: str, name: Any = "k", heads: int = 3, dim: int = 64) -> SidePlan:
    """K (or V) of layer 0, with a mean where the plan has one."""
    mean = values(heads, dim, seed=8).astype(np.float16) * 5
    return SidePlan(parse_plan(text), 0, name, heads, dim, Center(mean, ROPE, "test"))


@pytest.mark.parametrize("name", ["k", "v"])
@pytest.mark.parametrize("text", TEXTS)
def test_stored_bytes_are_the_codec_s(kernel: str, text: str, name: str) -> None:
    """Each coded token is encoded by itself, less its mean; each kept one is rounded."""
    one, x = side(text, name), values(1, 3, TOKENS.seq_len, 64)
    stored = one.store(x, TOKENS)
    mask = np.ones(TOKENS.seq_len, bool)
    for first, stop in one.kept(TOKENS):
        mask[first:stop] = False
    made, rest = codec(one.type.name), x
    back = one.load(stored)
    if one.center is not None:
        mean = one.center.mean.astype(np.float32)[None, :, None]
        turned = apply_rope(np.repeat(mean, TOKENS.seq_len, 2), TOKENS.positions[0], ROPE)
        rest = x - turned
        np.testing.assert_allclose(
            made.decode(made.encode(rest), 64)[:, :, mask] + turned[:, :, mask],
            back[:, :, mask],
            atol=2e-5 * np.abs(turned).max(),
        )
    else:
        np.testing.assert_array_equal(stored.blocks, made.encode(rest[:, :, mask]))
        np.testing.assert_array_equal(back[:, :, mask], made.decode(stored.blocks, 64))
    np.testing.assert_array_equal(stored.kept, x[:, :, ~mask].astype(np.float16))
    np.testing.assert_array_equal(back[:, :, ~mask], x[:, :, ~mask].astype(np.float16))
    assert back.shape == x.shape


@given(st.sampled_from(TEXTS), st.lists(st.integers(1, 228), max_size=12), st.booleans())
def test_pieces_are_the_whole(text: str, cuts: list[int], half: bool) -> None:
    """However the vectors are cut, blocks and floats are the same."""
    one = side(text)
    x = values(1, 3, TOKENS.seq_len, 64).astype(np.float16 if half else np.float32)
    whole, flat = one.store(x, TOKENS), x.reshape(-1, 64)
    edges = sorted({0, len(flat), *(cut % len(flat) for cut in cuts)})
    blocks, kept, back = [], [], []
    for first, stop in pairwise(edges):
        coded = one.encode(first, flat[first:stop], TOKENS)
        blocks.append(coded.blocks)
        kept.append(coded.kept)
        back.append(one.decode(first, stop - first, coded, TOKENS, np.float16))
    shape = whole.blocks.shape
    np.testing.assert_array_equal(np.concatenate(blocks).reshape(shape), whole.blocks)
    np.testing.assert_array_equal(np.concatenate(kept).reshape(whole.kept.shape), whole.kept)
    np.testing.assert_array_equal(
        np.concatenate(back).reshape(x.shape), one.load(whole, np.float16)
    )


@pytest.mark.parametrize("text", TEXTS)
def test_every_kernel_stores_the_same(text: str) -> None:
    """NumPy, plain C and every instruction set: the same bytes, the same floats."""
    x, found = values(1, 3, TOKENS.seq_len, 64), []
    for name in kernels.available():
        with kernels.use(name):
            stored = side(text).store(x, TOKENS)
            found.append((stored.blocks.tobytes(), side(text).load(stored).tobytes()))
    assert len(set(found)) == 1


def test_a_growing_text_stores_the_same() -> None:
    """A model writes chunk by chunk, each at its position: the bytes are those of the whole."""
    one, x = side("turbo3+center/turbo3,keep-first=4"), values(1, 3, 50, 64)
    whole = one.store(x, Tokens.of_text(0, 50))
    parts = [
        one.store(x[:, :, first : first + 9], Tokens.of_text(first, min(9, 50 - first)))
        for first in range(0, 50, 9)
    ]
    np.testing.assert_array_equal(
        np.concatenate([part.blocks for part in parts], axis=2), whole.blocks
    )
    np.testing.assert_array_equal(np.concatenate([p.kept for p in parts], axis=2), whole.kept)
    loaded = np.concatenate([one.load(part) for part in parts], axis=2)
    np.testing.assert_array_equal(loaded, one.load(whole))


def test_many_vectors_are_worked_on_in_batches() -> None:
    """More than fits the cache at once: batches cut heads where they must, and nothing moves."""
    tokens = Tokens.of_text(0, 5000)
    one, x = side("turbo3+center/turbo3,keep-first=4,keep-last=9"), values(1, 3, 5000, 64)
    whole = one.store(x, tokens)
    flat = x.reshape(-1, 64)
    parts = [one.encode(first, flat[first : first + 700], tokens) for first in range(0, 15000, 700)]
    blocks = np.concatenate([part.blocks for part in parts])
    np.testing.assert_array_equal(blocks.reshape(whole.blocks.shape), whole.blocks)
    assert ((one.load(whole) - x) ** 2).mean() < 1.2  # 3.4 % of the power without the mean


def test_batches_and_tables_of_single_heads() -> None:
    """Each head with its own table, each row of the batch as if it were alone."""
    table = exact_set("gaussian", 3).tables["*"]
    wide = replace(table, centroids=tuple(1.1 * level for level in table.centroids))
    tables = {"*": table, "layers.0.k.heads.0": wide, "layers.0.k.heads.2": wide}
    plan = parse_plan("turbo3+center/turbo3,keep-first=4", Book("x", CodebookSet("x", tables)))
    center = Center(values(3, 128, seed=8).astype(np.float16), None, "test")
    one, x = SidePlan(plan, 0, "k", 3, 128, center), values(2, 3, 20, 128)
    assert len(one.codecs) == 3
    assert one.codecs[0].config() != one.codecs[1].config()
    both = one.store(x)
    for number in range(2):
        alone = one.store(x[number : number + 1])
        np.testing.assert_array_equal(alone.blocks[0], both.blocks[number])
    for head in range(3):
        rest = x[:, head, 4:] - center.mean[head].astype(np.float32)
        np.testing.assert_array_equal(both.blocks[:, head], one.codecs[head].encode(rest))
    np.testing.assert_array_equal(one.load(both)[:1], one.load(one.store(x[:1])))


def test_texts_of_no_coded_token() -> None:
    """All float, and nothing at all: shapes hold."""
    one = side("turbo3+center/turbo3,keep-first=4,keep-last=4")
    for count in (0, 1, 8):
        x = values(1, 3, count, 64)
        stored = one.store(x, Tokens.of_text(0, count))
        assert stored.blocks.shape == (1, 3, 0, 1, 50)
        np.testing.assert_array_equal(one.load(stored), x.astype(np.float16))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((0, 2, 33, 5), np.nan, r"token 33 head 2 dim 5: nan .*--nonfinite zero"),
        ((0, 1, 1, 7), np.inf, r"token 1 head 1 dim 7: inf"),
        ((0, 1, 0, 7), 1e5, r"token 0 head 1 dim 7: 100000.0 is beyond f16"),
        ((0, 1, 9, 7), 1e6, r"token 9 head 1: norm 1e\+06"),
    ],
)
def test_values_that_no_format_holds(place: Any, value: float, message: str) -> None:
    """The error names the tensor, the token and the head, among coded tokens and kept ones."""
    x = values(1, 3, TOKENS.seq_len, 64)
    x[place] = value
    for text in ("turbo3,keep-first=4", "turbo3+center/turbo3,keep-first=4,keep-last=2"):
        with pytest.raises(InputError, match=rf"layers\.0\.k: {message}"):
            side(text).store(x, TOKENS)


def test_blocks_that_do_not_decode() -> None:
    """A norm that is not finite, and a value beyond the dtype: token and head are named."""
    one = side("turbo3+center/turbo3,keep-first=4")
    stored = one.store(values(1, 3, TOKENS.seq_len, 64), TOKENS)
    blocks = stored.blocks.reshape(-1, 1, 50).copy()
    kept = stored.kept.reshape(-1, 64)
    coded = TOKENS.seq_len - 12
    blocks[coded + 2, 0, :2] = np.array([np.inf], "<f2").view(np.uint8)
    with pytest.raises(InputError, match=r"layers\.0\.k: token 6 head 1: stored norm is inf"):
        one.decode(0, 3 * TOKENS.seq_len, Coded(blocks, kept), TOKENS)
    blocks[coded + 2, 0, :2] = np.array([65504], "<f2").view(np.uint8)
    one.decode(0, 3 * TOKENS.seq_len, Coded(blocks, kept), TOKENS)
    shift = Center(np.full((3, 64), 65504, np.float16), None, "test")
    lifted = SidePlan(parse_plan("turbo3+center/turbo3,keep-first=4"), 0, "k", 3, 64, shift)
    with pytest.raises(InputError, match=r"head 1: decodes to inf in float16"):
        lifted.decode(0, 3 * TOKENS.seq_len, Coded(blocks, kept), TOKENS, np.float16)


def test_a_mean_that_is_missing() -> None:
    """A type that takes one cannot do without, nor with one of another shape."""
    plan = parse_plan("turbo3+center/turbo3")
    with pytest.raises(InputError, match=r"layers\.5\.k: a mean of shape \(2, 64\)"):
        SidePlan(plan, 5, "k", 2, 64)
    wrong = Center(np.zeros((2, 63), np.float16), None, "test")
    with pytest.raises(InputError, match=r"came \(2, 63\)"):
        SidePlan(plan, 5, "k", 2, 64, wrong)
    assert SidePlan(plan, 5, "v", 2, 64).center is None


def test_heads_that_a_format_cannot_hold() -> None:
    """The line names the tensor."""
    with pytest.raises(InputError, match=r"layers\.3\.v: q8_0: head_dim 80"):
        SidePlan(parse_plan("q8_0"), 3, "v", 2, 80)


def test_vanished_vectors_are_counted() -> None:
    """Vectors too short for the stored norm decode to zero, and the count says so."""
    x = values(1, 3, 10, 64)
    x[0, 1, 3:5] *= 1e-12
    assert side("turbo3").encode(0, x.reshape(-1, 64), Tokens.of_text(0, 10)).vanished == 2
