"""Centring before RoPE: what is taken away, for every kind of rotation, and how far it reaches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tqcli.errors import InputError
from tqcli.plan.center import CALIBRATED, OWN, Center, known_rope, own_center
from tqcli.plan.grammar import parse_plan
from tqcli.plan.keysums import KeySums, SquareSums
from tqcli.plan.side import SidePlan
from tqcli.plan.tokens import Tokens
from tqcli.rope import NO_ROPE, UNKNOWN_ROPE, Rope, apply_rope, remove_rope

FREQ = tuple((1e4 ** -(np.arange(16) / 16)).astype(np.float32).tolist())
ROPES = {
    "half": Rope("default", FREQ),
    "interleaved": Rope("default", FREQ, "interleaved"),
    "linear": Rope("linear", tuple(f / 4 for f in FREQ)),
    "yarn, with a magnitude": Rope("yarn", FREQ, magnitude=1.1386),
    "partial": Rope("default", FREQ[:4]),
    "partial, interleaved, with a magnitude": Rope("longrope", FREQ[:5], "interleaved", 1.19),
    "none": Rope(NO_ROPE),
}
HEADS, DIM = 2, 32


def keys(rope: Rope, first: int, count: int, seed: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """K before and after RoPE, (1, heads, tokens, dim): a mean of length 17 and noise of 5.7."""
    mean = np.random.default_rng(2).standard_normal((HEADS, 1, DIM)) * 3
    noise = np.random.default_rng(seed).standard_normal((1, HEADS, count, DIM))
    before = (mean + noise).astype(np.float32)
    return before, apply_rope(before, np.arange(first, first + count), rope)


def pieces(k: np.ndarray, size: int = 53) -> Any:
    """Vectors of a tensor piece by piece."""
    flat = k.reshape(-1, k.shape[-1])
    return ((first, flat[first : first + size]) for first in range(0, len(flat), size))


@pytest.fixture(params=list(ROPES))
def rope(request: pytest.FixtureRequest) -> Rope:
    """Every kind of rotation."""
    return ROPES[request.param]


def test_the_mean_is_that_of_k_before_rope(kernel: str, rope: Rope) -> None:
    """Over tokens from the fifth of each text on, in whatever pieces they come."""
    before, after = keys(rope, 0, 90)
    found = own_center(pieces(after), after.shape, Tokens.of_text(0, 90), rope, "k")
    expected = before[0, :, 4:].mean(axis=1)
    np.testing.assert_allclose(found.mean, expected, rtol=2**-10, atol=1e-4)
    assert str(found) == "own mean before RoPE"


def test_what_is_left_is_noise_at_any_position(rope: Rope) -> None:
    """A mean from positions 0 to 90 serves 30,000 positions later as well; one after RoPE not."""
    _, near = keys(rope, 0, 90)
    _, far = keys(rope, 30_000, 90, seed=7)
    tokens = Tokens.of_text(0, 90)
    center = own_center(pieces(near), near.shape, tokens, rope, "k")
    late = own_center(pieces(near), near.shape, tokens, None, "k")
    left, stale = (rest(one, far, Tokens.of_text(30_000, 90)) for one in (center, late))
    noise = DIM * rope.magnitude**2  # power of the noise of one vector
    assert left < 1.15 * noise
    if rope.kind != NO_ROPE:
        assert stale > left
    assert rest(center, near, tokens) < 1.15 * noise


def rest(center: Center, k: np.ndarray, tokens: Tokens) -> float:
    """Mean power of keys without their mean."""
    out = np.empty((k.shape[2], k.shape[3]), np.float32)
    total = 0.0
    for head in range(k.shape[1]):
        center.take(k[0, head], head, tokens, 0, 0, out)
        total += float((out.astype(np.float64) ** 2).sum())
    return total / (k.shape[1] * k.shape[2])


def test_taken_away_is_added_back(rope: Rope) -> None:
    """With a codec that keeps float32, the round trip is one rounding of the sum."""
    _, after = keys(rope, 100, 60)
    tokens = Tokens.of_text(100, 60)
    center = own_center(pieces(after), after.shape, tokens, rope, "k")
    one = SidePlan(parse_plan("f32+center/f32"), 0, "k", HEADS, DIM, center)
    stored = one.store(after, tokens)
    np.testing.assert_allclose(one.load(stored), after, atol=2e-6 * np.abs(after).max())
    np.testing.assert_array_equal(stored.mean, center.mean)


def test_centring_pays(rope: Rope) -> None:
    """Less noise in every key: the codec's error falls with the power that it is given."""
    _, after = keys(rope, 0, 400)
    tokens = Tokens.of_text(0, 400)
    center = own_center(pieces(after), after.shape, tokens, rope, "k")
    errors = []
    for text in ("turbo3", "turbo3+center/turbo3"):
        one = SidePlan(parse_plan(text), 0, "k", HEADS, DIM, center)
        errors.append(float(((one.load(one.store(after, tokens)) - after) ** 2).mean()))
    assert errors[1] < 0.25 * errors[0]


@pytest.mark.parametrize("size", [1, 17, 200])
def test_sums_do_not_depend_on_pieces_or_company(kernel: str, size: int) -> None:
    """A text's sums are its own: whatever stands beside it, however it is read."""
    rope = ROPES["partial, interleaved, with a magnitude"]
    lengths = (30, 3, 45)
    parts = [keys(rope, 0, n, seed=n)[1] for n in lengths]
    both = np.concatenate(parts, axis=2)
    positions = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)[None]
    tokens = Tokens.of_source({"sequence_lengths": list(lengths)}, positions, 1, sum(lengths))
    sums = KeySums(both.shape, tokens, rope)
    squares = SquareSums(both.shape, tokens, "k")
    for first, piece in pieces(both, size):
        sums.add(first, piece)
        squares.add(first, piece)
    assert sums.counts.tolist() == [[13, 13], [0, 0], [20, 21]]
    for number, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        alone = KeySums(part.shape, Tokens.of_text(0, length), rope)
        alone.add(0, part.reshape(-1, DIM))
        np.testing.assert_array_equal(sums.sums()[number], alone.sums()[0])
        exact = (part.astype(np.float64) ** 2)[0, :, 4:].sum(axis=1)
        np.testing.assert_allclose(squares.sums()[number].sum(axis=0), exact, rtol=1e-12)
    mean = remove_rope(both, positions[0], rope)[0]
    used = np.r_[4:30, 37:78]
    np.testing.assert_allclose(sums.mean(), mean[:, used].mean(axis=1), rtol=1e-4, atol=1e-5)


def test_unknown_rope_and_positions(rope: Rope) -> None:
    """What a source does not say is not guessed."""
    tokens = Tokens.of_text(0, 8)
    assert known_rope({"rope": rope.to_json()}, 0, tokens) == rope
    assert known_rope({"rope": Rope(UNKNOWN_ROPE).to_json()}, 0, tokens) is None
    assert known_rope({}, 0, tokens) is None
    assert known_rope({"rope": rope.to_json()}, 0, Tokens(8)) is None
    with pytest.raises(InputError, match="layer 3"):
        known_rope({"rope": [{"layers": [0], **rope.to_json()}]}, 3, tokens)


def test_own_mean_after_rope() -> None:
    """Where RoPE is not known, the mean is one of K as it stands; its name says so."""
    _, after = keys(ROPES["half"], 0, 90)
    found = own_center(pieces(after), after.shape, Tokens(90), None, "k")
    np.testing.assert_allclose(found.mean, after[0, :, 4:].mean(axis=1), rtol=2**-10, atol=1e-4)
    assert str(found) == f"{OWN} after RoPE"
    assert str(Center(found.mean, ROPES["half"], CALIBRATED)) == "calibrated mean before RoPE"


def test_no_token_that_counts() -> None:
    """Four tokens have no mean: nothing is taken away."""
    _, after = keys(ROPES["half"], 0, 4)
    found = own_center(pieces(after), after.shape, Tokens.of_text(0, 4), ROPES["half"], "k")
    assert not found.mean.any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_without_a_mean(value: float) -> None:
    """One line with the place; so for sums beyond float16."""
    _, after = keys(ROPES["half"], 0, 90)
    after[0, 1, 50, 3] = value
    with pytest.raises(InputError, match=r"kv: layers\.0\.k: token 50 head 1 dim 3: (nan|inf)"):
        own_center(
            pieces(after), after.shape, Tokens.of_text(0, 90), ROPES["half"], "kv: layers.0.k"
        )
    with pytest.raises(InputError, match="k: the mean of K reaches 100000;"):
        Center.of(np.full((1, 4), 1e5), None, OWN, "k")
