"""The trellis types, and weights for K: what they promise to whoever stores a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import tqcli
from tqcli import kernels, rotation
from tqcli.codebook import stock_trellis
from tqcli.codecs.group import GroupCodec
from tqcli.codecs.trellis import SPECS
from tqcli.codecs.turbo import SPECS as TURBO
from tqcli.errors import InputError, UsageError
from tqcli.kernels import reference

Make = Callable[..., Any]
WEIGHTED = [*TURBO, *SPECS]
# A group of 64 begins in state 0 twice as often.
BOUNDS = {
    "trellis2": 0.078,
    "trellis3": 0.0215,
    "trellis4": 0.0060,
    "trellis2-g64": 0.079,
    "trellis3-g64": 0.0215,
    "trellis4-g64": 0.0060,
}


@pytest.fixture(scope="session")
def golden(fixtures: Path) -> dict[str, Any]:
    """Vectors, weights, and the bytes of both encoders, written once."""
    return load_file(fixtures / "golden" / "trellis.safetensors")


def named(golden: dict[str, Any], what: str) -> list[str]:
    """Ids with such an entry."""
    return [key.removesuffix(what) for key in golden if key.endswith(what)]


def pairs(dim: int, seed: int = 97) -> Any:
    """Weights as a calibration gives them: one for each pair that RoPE turns."""
    half = np.exp(np.random.default_rng(seed).standard_normal(dim // 2))
    return np.concatenate([half, half])


@pytest.mark.parametrize(("name", "bound"), BOUNDS.items())
def test_error_on_gaussian_vectors(name: str, bound: float, gaussian: Make) -> None:
    """What the tables were trained for, on vectors of other seeds; far below turbo's error."""
    error, power = 0.0, 0.0
    for seed in (301, 302, 303):
        x = gaussian(1500, 128, seed=seed)
        made = tqcli.codec(name)
        error += float(np.square(made.decode(made.encode(x), 128).astype(np.float64) - x).sum())
        power += float(np.square(x.astype(np.float64)).sum())
    assert error / power <= bound


def test_golden_file_is_complete(golden: dict[str, Any]) -> None:
    """Every id of the family stands in it, plain and weighted."""
    assert set(SPECS) <= set(named(golden, ".blocks"))
    assert set(SPECS) <= set(named(golden, ".weighted"))


@pytest.mark.parametrize("name", SPECS)
def test_golden_blocks(name: str, golden: dict[str, Any], kernel: str) -> None:
    """One id is one byte layout for ever, and one encoder's bytes on every machine."""
    made = tqcli.codec(name)
    blocks = made.encode(golden["x"])
    assert np.array_equal(blocks, golden[f"{name}.blocks"])
    rotated = made.decode(blocks, domain="rotated")
    assert rotated.tobytes() == golden[f"{name}.rotated"].tobytes()


@pytest.mark.parametrize("name", ["turbo2", "turbo3", "turbo4", "turbo3-g64", "turbo3-b32", *SPECS])
def test_golden_weighted_blocks(name: str, golden: dict[str, Any], kernel: str) -> None:
    """The same codes on every kernel, whatever was searched."""
    blocks = tqcli.codec(name).encode(golden["x"], weights=golden["weights"])
    assert np.array_equal(blocks, golden[f"{name}.weighted"])


@pytest.mark.parametrize("name", SPECS)
def test_layout_bit_by_bit(name: str, golden: dict[str, Any]) -> None:
    """A reader written from the format page alone: zeros, then symbols, lowest bit first."""
    bits, group = SPECS[name].bits, SPECS[name].group
    window = 8 if bits == 4 else 7
    table = np.array(stock_trellis(bits).values, np.float32)
    for vector in range(0, 24, 5):
        values: list[np.float32] = []
        for block in golden[f"{name}.blocks"][vector]:
            scale = np.float32(block[:2].copy().view("<f2")[0])
            stream = [0] * (window - bits)
            stream += [int(byte) >> place & 1 for byte in block[2:] for place in range(8)]
            for t in range(group):
                run = stream[t * bits : t * bits + window]
                values.append(table[sum(bit << place for place, bit in enumerate(run))] * scale)
        assert np.array(values).tobytes() == golden[f"{name}.rotated"][vector].tobytes()


@pytest.mark.parametrize("name", SPECS)
def test_codes_are_table_entries(name: str, gaussian: Make) -> None:
    """``table[codes] * scale`` is what decodes in the rotated domain."""
    made = tqcli.codec(name)
    assert isinstance(made, GroupCodec)
    blocks = made.encode(gaussian(20, 128))
    scales = np.repeat(blocks[..., :2].copy().view("<f2")[..., 0], made.layout.group, axis=1)
    values = stock_trellis(SPECS[name].bits).array()[made.codes(blocks)]
    rotated = made.decode(blocks, domain="rotated")
    assert np.array_equal(rotated, values * scales.astype(np.float32))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_shipped_tables_fit_int8(bits: int) -> None:
    """Entries are whole multiples of 1/32, so integer kernels lose nothing."""
    steps = np.array(stock_trellis(bits).values) * 32
    assert (steps == np.rint(steps)).all()
    assert np.abs(steps).max() <= 127


def weighted_error(made: Any, x: Any, blocks: Any, weights: Any) -> float:
    """Error energy under weights."""
    error = made.decode(blocks, x.shape[-1]).astype(np.float64) - x
    return float((weights * error**2).sum())


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_lower_the_weighted_error(name: str, gaussian: Make) -> None:
    """By a third and more, at unchanged size, while the plain error rises."""
    made, x, weights = tqcli.codec(name), gaussian(60, 128), pairs(128)
    plain, weighted = made.encode(x), made.encode(x, weights=weights)
    assert weighted.shape == plain.shape
    shares = [
        weighted_error(made, x, weighted, w) / weighted_error(made, x, plain, w)
        for w in (weights, np.ones(128))
    ]
    assert shares[0] < 0.75 < 1 < shares[1]


@pytest.mark.parametrize("name", [n for n in TURBO if "-b32" not in n])
def test_plain_decoders_read_weighted_turbo_blocks(name: str, gaussian: Make) -> None:
    """The id and its decoder know nothing of weights: levels of the table times the norm."""
    made, x = tqcli.codec(name), gaussian(30, 128)
    assert isinstance(made, GroupCodec)
    blocks = made.encode(x, weights=pairs(128))
    groups = blocks.reshape(-1, made.layout.group_bytes)
    decoded = reference.decode(groups, made.layout).reshape(x.shape)  # type: ignore[arg-type]
    assert np.array_equal(made.decode(blocks, 128), decoded)
    assert made.config() == {"id": name}
    cosine = (x * decoded).sum() / np.linalg.norm(x) / np.linalg.norm(decoded)
    assert cosine > 0.9


@pytest.mark.parametrize("name", ["turbo3", "turbo3-g64", "trellis3", "trellis3-g64"])
@pytest.mark.parametrize("dim", [64, 80, 128, 192])
def test_weights_of_any_head(name: str, dim: int, gaussian: Make) -> None:
    """Padding weighs nothing, and groups of one vector have weights of their own."""
    made, x, weights = tqcli.codec(name), gaussian(40, dim), pairs(dim)
    blocks = made.encode(x, weights=weights)
    gain = weighted_error(made, x, blocks, weights) / weighted_error(
        made, x, made.encode(x), weights
    )
    assert gain < 0.8
    for vector in (0, 39):
        assert np.array_equal(blocks[vector], made.encode(x[vector], weights=weights))
    assert isinstance(made, GroupCodec)
    if dim == 128 and made.layout.group == 64:
        alone = tqcli.codec(name).encode(np.ascontiguousarray(x[:, 64:]), weights=weights[64:])
        assert np.array_equal(blocks[:, 1], alone[:, 0])


@pytest.mark.parametrize("name", ["turbo3", "turbo4-g64", "trellis3", "trellis2-g64"])
def test_hostile_vectors_under_weights(name: str, kernel: str, gaussian: Make) -> None:
    """Zeros stay zeros, fp16's ends hold, and what does not fit is named."""
    made, weights = tqcli.codec(name), pairs(128)
    x = gaussian(6, 128)
    x /= np.linalg.norm(x, axis=1)[:, None]
    x[1] = 0
    x[2] *= np.float32(6e4)
    x[3] *= np.float32(1e-6)
    x[4] *= np.float32(1e-12)
    blocks = made.encode(x, weights=weights)
    decoded = made.decode(blocks, 128)
    assert np.isfinite(decoded).all()
    assert not decoded[[1, 4]].any()
    assert made.vanished(x, blocks) == 1
    for row in (0, 2):
        cosine = (x[row] * decoded[row]).sum() / np.linalg.norm(x[row])
        assert cosine / np.linalg.norm(decoded[row]) > 0.85
    for value, what in ((np.nan, "nan"), (np.inf, "inf"), (np.float32(1e30), "fp16")):
        x[5, 9] = value
        with pytest.raises(InputError, match=rf"vector 5.*{what}"):
            made.encode(x, weights=weights)


@pytest.mark.parametrize(
    ("weights", "what"),
    [
        (np.ones(64), r"shape \(64,\); one for each value, \(128,\)"),
        (np.ones((1, 128)), r"shape \(1, 128\)"),
        (np.ones(128, np.int64), "int64; a float array"),
        ("strong", "str; a float array"),
        (np.full(128, np.nan), "nan at 0"),
        (np.where(np.arange(128) == 70, -1.0, 1.0), "-1.0 at 70"),
    ],
)
def test_bad_weights_end_in_one_line(weights: Any, what: str, gaussian: Make) -> None:
    """Of another head, of no numbers, negative."""
    for name in ("turbo3", "trellis2"):
        with pytest.raises(InputError, match=what) as caught:
            tqcli.codec(name).encode(gaussian(2, 128), weights=weights)
        assert "\n" not in str(caught.value)


def test_other_types_take_no_weights(gaussian: Make) -> None:
    """A request that would be ignored is refused."""
    for name in ("q8_0", "f16", "turbo3-qjl"):
        with pytest.raises(UsageError, match=f"{name}: takes no weights; turbo and trellis"):
            tqcli.codec(name).encode(gaussian(2, 128), weights=np.ones(128))


def test_weights_that_say_nothing(gaussian: Make) -> None:
    """Zero weights are equal weights, and one-hot ones leave the ridge to the rest."""
    made, x = tqcli.codec("trellis3"), gaussian(40, 128)
    equal = made.encode(x, weights=np.full(128, 7.0))
    assert np.array_equal(equal, made.encode(x, weights=np.zeros(128)))
    hot = np.zeros(128)
    hot[5] = 1
    decoded = made.decode(made.encode(x, weights=hot), 128)
    assert np.abs(decoded[:, 5] - x[:, 5]).max() < 0.02
    assert np.square(decoded - x).sum() < np.square(x).sum()


def test_threads_change_nothing(gaussian: Make) -> None:
    """Vectors are searched by themselves, however they are dealt out."""
    made, x, weights = tqcli.codec("turbo3"), gaussian(5000, 128), pairs(128)
    assert isinstance(made, GroupCodec)
    if kernels.available() == ("numpy",):
        pytest.skip("NumPy runs on one thread")
    one, three = (kernels.encode(x, made.layout, weights=weights, threads=t) for t in (1, 3))
    assert np.array_equal(one, three)


def test_rotation_and_signs_are_turbos(golden: dict[str, Any]) -> None:
    """The rotated domain is the one that attention kernels for turbo work in."""
    made = tqcli.codec("trellis4")
    blocks = golden["trellis4.blocks"]
    rotated = made.decode(blocks, domain="rotated")
    assert np.array_equal(made.decode(blocks), rotation.unrotate(rotated))
