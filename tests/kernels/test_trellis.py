"""Trellis kernels and weighted encoders against the specification, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from tqcli import codec, kernels
from tqcli.errors import InputError
from tqcli.kernels import beam_reference, leastsquares, trellis_reference
from tqcli.kernels.layout import TrellisLayout, TurboLayout
from tqcli.kernels.weighting import Weighting, weigh

BITS = (2, 3, 4)
GROUPS = (64, 128)
SHAPES = tuple(product(BITS, GROUPS))
KINDS = ("half", "interleaved", "any", "one-hot", "zero")


def stock(bits: int, group: int) -> TrellisLayout:
    """A layout of the registry."""
    name = f"trellis{bits}" + ("-g64" if group == 64 else "")
    return codec(name).layout  # type: ignore[attr-defined, no-any-return]


def skewed(bits: int, group: int) -> TrellisLayout:
    """A table without any symmetry, its largest entries at the ends of int8."""
    size = len(stock(bits, group).table)
    table = np.random.default_rng(bits).integers(-127, 128, size).astype(np.int8)
    return TrellisLayout(bits, group, table)


def weights(kind: str, group: int) -> Any:
    """Weights with the structure of a rotary embedding, or with none."""
    rng = np.random.default_rng(61)
    pairs = np.exp(1.2 * rng.standard_normal(group // 2))
    one = np.zeros(group)
    one[group // 3] = 5
    return {
        "half": np.concatenate([pairs, pairs]),
        "interleaved": np.repeat(pairs, 2),
        "any": np.exp(rng.standard_normal(group)),
        "one-hot": one,
        "zero": np.zeros(group),
    }[kind]


@pytest.mark.parametrize(("bits", "group"), SHAPES)
def test_encode_hostile(native: str, helpers: Any, bits: int, group: int) -> None:
    """Any float may come: huge, denormal, zero, NaN; in any float type, with any table."""
    x = helpers.hostile(np.random.default_rng(1013 + bits), 120, group)
    for layout in (stock(bits, group), skewed(bits, group)):
        for dtype in helpers.dtypes:
            given = helpers.cast(x, dtype)
            expected = trellis_reference.encode(given, layout)
            assert helpers.same(kernels.encode(given, layout), expected)


@pytest.mark.parametrize(("bits", "group"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_weighted_hostile(native: str, helpers: Any, bits: int, group: int, kind: str) -> None:
    """Weights that repeat, alternate, are one or none; turbo and trellis alike."""
    x = helpers.hostile(np.random.default_rng(1019 + bits), 70, group)
    weighed = weigh(weights(kind, group), group)
    layouts = [stock(bits, group), helpers.layout(bits, group), skewed(bits, group)]
    layouts += [helpers.layout(bits, group, 32, 4, skewed=True)]
    for layout in layouts:
        found = kernels.encode(x, layout, weights=weighed)
        if isinstance(layout, TurboLayout):
            assert helpers.same(found, beam_reference.encode(x, layout, weighed))
        else:
            assert helpers.same(found, trellis_reference.encode(x, layout, weighed))


@pytest.mark.parametrize("n", range(10))
def test_any_number_of_groups(native: str, gaussian: Callable[..., Any], n: int) -> None:
    """Kernels search several vectors together; the rest of a batch is like any other."""
    for group in GROUPS:
        x, weighed = gaussian(n, group), weigh(weights("half", group), group)
        for layout in (stock(3, group), codec("turbo3" if group == 128 else "turbo3-g64").layout):  # type: ignore[attr-defined]
            many = kernels.encode(x, layout, weights=weighed)
            one = [kernels.encode(x[i : i + 1], layout, weights=weighed) for i in range(n)]
            assert np.array_equal(many, np.concatenate([many[:0], *one]))
        plain = kernels.encode(x, stock(2, group))
        assert np.array_equal(plain, trellis_reference.encode(x, stock(2, group)))
        decoded = kernels.decode(plain, stock(2, group))
        assert np.array_equal(decoded, trellis_reference.decode(plain, stock(2, group)))


@pytest.mark.parametrize(("bits", "group"), SHAPES)
@pytest.mark.parametrize("rotated", [False, True], ids=["original", "rotated"])
def test_decode_any_bytes(native: str, helpers: Any, bits: int, group: int, rotated: bool) -> None:
    """Any bytes may come, and with them any scale: NaN, infinite, negative, denormal."""
    layout = skewed(bits, group)
    blocks = np.random.default_rng(2011).integers(0, 256, (333, layout.group_bytes), np.uint8)
    for dtype in helpers.dtypes:
        expected = trellis_reference.decode(blocks, layout, rotated=rotated, dtype=dtype)
        found = kernels.decode(blocks, layout, rotated=rotated, dtype=dtype)
        assert helpers.same(found, expected)


@pytest.mark.parametrize("rotated", [False, True], ids=["original", "rotated"])
def test_decode_every_scale(native: str, helpers: Any, rotated: bool) -> None:
    """All 65,536 scales: a scale of zero, and products with denormals, meet every case."""
    layout = skewed(3, 64)
    blocks = np.random.default_rng(37).integers(0, 256, (1 << 16, layout.group_bytes), np.uint8)
    blocks[:, :2] = np.arange(1 << 16, dtype="<u2")[:, None].view(np.uint8)
    for dtype in helpers.dtypes:
        expected = trellis_reference.decode(blocks, layout, rotated=rotated, dtype=dtype)
        assert helpers.same(kernels.decode(blocks, layout, rotated=rotated, dtype=dtype), expected)


def test_output_past_the_caches(native: str, gaussian: Callable[..., Any]) -> None:
    """From 16 MiB on floats are written another way; they are the same floats."""
    layout = stock(3, 128)
    few = kernels.encode(gaussian(50, 128), layout)
    blocks = np.resize(few, (40_001, layout.group_bytes))
    for dtype in (np.float32, np.float16):
        values = kernels.decode(blocks, layout, dtype=dtype)
        expected = np.resize(kernels.decode(few, layout, dtype=dtype), values.shape)
        assert np.array_equal(values, expected)


def test_reads_and_writes_no_byte_outside(native: str, gaussian: Callable[..., Any]) -> None:
    """Blocks are read and written to their last byte and not beyond."""
    for bits, group in SHAPES:
        layout, x = stock(bits, group), gaussian(5, group)
        room = np.full((7, layout.group_bytes), 0xA5, np.uint8)
        kernels.encode(x, layout, out=room[1:-1])
        assert (room[[0, -1]] == 0xA5).all()
        floats = np.full((7, group), np.float32(3), np.float32)
        kernels.decode(room[1:-1], layout, out=floats[1:-1])
        assert (floats[[0, -1]] == 3).all()


def _cost(y: Any, values: Any, weighed: Weighting | None) -> Any:
    """What the search minimises, for one vector, in float64."""
    error = np.asarray(y, np.float64) - values
    if weighed is None:
        return (error**2).sum()
    moved = error.copy()
    for t in range(len(error)):
        moved[t + 1 :] += weighed.feedback[t, t + 1 :] * error[t]
    return (weighed.costs * moved**2).sum()


def test_viterbi_finds_the_best_path() -> None:
    """Against all 4,096 sequences of four symbols of 3 bits."""
    layout, rng = stock(3, 64), np.random.default_rng(71)
    y = rng.standard_normal((4, 30)).astype(np.float32)
    symbols = np.stack(np.meshgrid(*[np.arange(8)] * 4, indexing="ij"), -1).reshape(-1, 4)
    state, windows = np.zeros(len(symbols), np.int64), []
    for symbol in symbols.T:
        windows.append(state | symbol << 4)
        state = windows[-1] >> 3
    every = layout.values[np.array(windows).T]
    found = layout.values[trellis_reference.search(y, 3, layout.values)]
    for vector in range(30):
        best = ((every - y[:, vector]) ** 2).sum(axis=1).min()
        # Keys keep 19 bits of a cost.
        assert _cost(y[:, vector], found[:, vector], None) <= best * (1 + 1e-4)


@pytest.mark.parametrize("kind", ["half", "any"])
def test_searches_lower_what_they_minimise(kind: str, gaussian: Callable[..., Any]) -> None:
    """By its own cost each search beats codes that were chosen without weights."""
    group = 64
    weighed = weigh(weights(kind, group), group)
    columns = leastsquares.normalised(np.ascontiguousarray(gaussian(40, group).T))
    y = leastsquares.targets(columns.spread, np.float32(1))
    layout = stock(3, group)
    plain = layout.values[trellis_reference.search(y, 3, layout.values)]
    chosen = layout.values[trellis_reference.search(y, 3, layout.values, weighed)]
    turbo = codec("turbo3-g64").layout  # type: ignore[attr-defined]
    z = y * np.float32(0.125)
    codes = beam_reference.search(np.stack([z, z], axis=1), turbo, weighed)
    assert np.array_equal(codes[:, 0], codes[:, 1])
    nearest = np.searchsorted(turbo.midpoints, z, side="right")
    ratios = []
    for v in range(40):
        ratios.append(_cost(y[:, v], chosen[:, v], weighed) / _cost(y[:, v], plain[:, v], weighed))
        beams = _cost(z[:, v], turbo.centroids[codes[:, 0, v]], weighed)
        ratios.append(beams / _cost(z[:, v], turbo.centroids[nearest[:, v]], weighed))
    assert np.mean(np.array(ratios) < 1) > 0.95
    assert np.mean(ratios) < 0.75


@pytest.mark.parametrize("name", ["trellis3", "turbo3-g64"])
def test_the_scale_is_of_least_squares(name: str, gaussian: Callable[..., Any]) -> None:
    """No other fp16 scale near the stored one leaves less weighted error."""
    made = codec(name)
    group = made.layout.group  # type: ignore[attr-defined]
    x, w = gaussian(60, group).astype(np.float64), weights("half", group)
    blocks = kernels.encode(x.astype(np.float32), made.layout, weights=w)  # type: ignore[attr-defined]
    exact = weigh(w, group).weights.astype(np.float64)

    def errors(step: int) -> Any:
        other = blocks.copy()
        scales = other[:, :2].copy().view("<i2") + np.int16(step)
        other[:, :2] = scales.view(np.uint8)
        return (exact * (kernels.decode(other, made.layout) - x) ** 2).sum(axis=1)  # type: ignore[attr-defined]

    here = errors(0)
    for step in (-2, 2):
        assert (errors(step) > here).mean() > 0.95
        assert errors(step).sum() > here.sum()


def test_wrong_layouts() -> None:
    """Each names what is wrong with it."""
    good = stock(3, 128)
    for layout, what in (
        (TrellisLayout(5, 128, good.table), "bits"),
        (TrellisLayout(3, 32, good.table), "group 32"),
        (TrellisLayout(4, 128, good.table), r"table \(128,\)"),
        (TrellisLayout(3, 128, good.table.astype(np.int16)), "table"),
        (TrellisLayout(3, 128, np.full(128, -128, np.int8)), "-128"),
    ):
        with pytest.raises(InputError, match=what):
            kernels.encode(np.zeros((1, layout.group), np.float32), layout)


def test_the_extension_checks_lengths_itself(native: str) -> None:
    """Whoever calls it with buffers that do not fit gets an error and no crash."""
    choose, layout = kernels.choose, stock(3, 64)
    extension, capsule = choose.native, kernels.layout_capsule(layout)
    turbo = kernels.layout_capsule(codec("turbo3-g64").layout)  # type: ignore[attr-defined]
    index = kernels.available().index(native)
    x, blocks = np.zeros((2, 64), np.float32), np.zeros((2, 26), np.uint8)
    none, short = np.empty(0, np.float32), np.zeros((65, 64), np.float32)
    assert extension is not None
    for arguments in (
        (index, capsule, none, x, 0, blocks[:1].copy()),
        (index, capsule, none, x, 3, blocks),
        (index, capsule, short, x, 0, blocks),
        (99, capsule, none, x, 0, blocks),
        (index, turbo, none, x, 0, blocks),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - the texts are for authors of kernels
            extension.trellis_encode(*arguments)
    with pytest.raises(ValueError, match="empty"):
        extension.weighted_encode(index, turbo, none, x, 0, blocks)
    with pytest.raises(ValueError, match="lengths"):
        extension.trellis_decode(index, capsule, blocks, 0, x[:1].copy(), False)
    out = np.zeros((1, 1), np.float32)
    with pytest.raises(ValueError, match="columns"):
        extension.trellis_scores(index, capsule, 1, x[:1].copy(), none, blocks, out, 0)
    for table, floats in (((100,), 129), ((128,), 128)):
        with pytest.raises(ValueError, match=r"table|floats"):
            extension.trellis_layout(3, 64, np.zeros(table, np.int8), np.zeros(floats, np.float32))
