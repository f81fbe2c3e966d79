"""RoPE undone and redone, against the definition and against itself."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tqcli.errors import InputError
from tqcli.rope import NO_ROPE, UNKNOWN_ROPE, Rope, apply_rope, remove_rope, rope_of

INV_FREQ = tuple(float(f) for f in (1e4 ** -(np.arange(0, 64, 2) / 64)).astype(np.float32))
FULL = Rope("default", INV_FREQ, theta=1e4)


def keys(seq_len: int, dim: int = 64) -> np.ndarray:
    """K of two heads."""
    return np.random.default_rng(311).standard_normal((2, seq_len, dim)).astype(np.float32)


def error(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of two sets of vectors, relative to the length of the vector."""
    gap = np.linalg.norm(a.astype(np.float64) - b, axis=-1)
    return float((gap / np.linalg.norm(b, axis=-1)).max())


@pytest.mark.parametrize("pairs", ["half", "interleaved"])
@pytest.mark.parametrize("magnitude", [1.0, 1.138629436111989])
@pytest.mark.parametrize("dims", [64, 16])
def test_round_trip(pairs: str, magnitude: float, dims: int) -> None:
    """Taking RoPE away and putting it back holds within 1e-6, far into a long prompt too."""
    rope = replace(FULL, pairs=pairs, magnitude=magnitude, inv_freq=INV_FREQ[: dims // 2])
    k = keys(300)
    for positions in (np.arange(300), np.arange(130_772, 131_072)):
        assert error(apply_rope(remove_rope(k, positions, rope), positions, rope), k) < 1e-6
        assert error(remove_rope(apply_rope(k, positions, rope), positions, rope), k) < 1e-6


@pytest.mark.parametrize("pairs", ["half", "interleaved"])
def test_follows_the_definition(pairs: str) -> None:
    """Each pair is a complex number turned by position times frequency; the rest is left alone."""
    rope = replace(FULL, pairs=pairs, inv_freq=INV_FREQ[:4])
    k, positions = keys(9, dim=12), np.arange(9)
    got = apply_rope(k, positions, rope)
    for pair, freq in enumerate(rope.inv_freq):
        a, b = (pair, pair + 4) if pairs == "half" else (2 * pair, 2 * pair + 1)
        turned = (k[..., a] + 1j * k[..., b]) * np.exp(1j * positions * freq)
        np.testing.assert_allclose(got[..., a], turned.real, atol=1e-6)
        np.testing.assert_allclose(got[..., b], turned.imag, atol=1e-6)
    np.testing.assert_array_equal(got[..., 8:], k[..., 8:])


def test_angles_are_rounded_as_models_round_them() -> None:
    """At large positions the float32 angle decides: an exact one would miss the model's K."""
    k, positions = keys(1), np.array([130_001])
    angle = (np.float32(positions[0]) * np.asarray(INV_FREQ, np.float32)).astype(np.float64)
    expected = k[..., :32] * np.cos(angle) - k[..., 32:] * np.sin(angle)
    np.testing.assert_allclose(apply_rope(k, positions, FULL)[..., :32], expected, atol=1e-6)


def test_layer_without_rope_is_left_alone() -> None:
    """A model may rotate only some of its layers."""
    k = keys(3)
    np.testing.assert_array_equal(remove_rope(k, np.arange(3), Rope(NO_ROPE)), k)


def test_unknown_rope_cannot_be_removed() -> None:
    """A guess would give K that no model ever computed."""
    with pytest.raises(InputError, match="unknown"):
        remove_rope(keys(3), np.arange(3), Rope(UNKNOWN_ROPE))


@pytest.mark.parametrize("shape", [(64,), (2, 4, 64), (2, 3, 62)])
def test_shapes_that_do_not_fit(shape: tuple[int, ...]) -> None:
    """Wrong rank, a position too few, fewer values than are rotated."""
    with pytest.raises(InputError, match="one position a token"):
        apply_rope(np.ones(shape, np.float32), np.arange(3), FULL)


def test_json_round_trip() -> None:
    """What the metadata holds gives the same rotation back, bit for bit."""
    rope = replace(FULL, kind="llama3", pairs="interleaved", scaling={"factor": 8.0})
    assert Rope.from_json(json.loads(json.dumps(rope.to_json()))) == rope
    assert rope.to_json()["rotary_dims"] == 64


@pytest.mark.parametrize(
    "damage",
    [{"pairs": "spiral"}, {"magnitude": 0}, {"magnitude": "x"}, {"inv_freq": [float("nan")]},
     {"inv_freq": None}],
)  # fmt: skip
def test_damaged_json_is_refused(damage: dict[str, object]) -> None:
    """Metadata of a foreign dump is not trusted."""
    with pytest.raises(InputError, match="rope"):
        Rope.from_json(FULL.to_json() | damage)


def test_rope_of_a_layer() -> None:
    """Layers may differ: the rule is looked up, and a missing one is an error."""
    rules = [{"layers": [0, 2], **FULL.to_json()}, {"layers": [1], **Rope(NO_ROPE).to_json()}]
    assert rope_of(rules, 2) == FULL
    assert rope_of(rules, 1) == Rope(NO_ROPE)
    assert rope_of(FULL.to_json(), 17) == FULL
    with pytest.raises(InputError, match="layer 3"):
        rope_of(rules, 3)
    with pytest.raises(InputError, match="layer 0"):
        rope_of(None, 0)
