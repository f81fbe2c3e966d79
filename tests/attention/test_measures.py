"""The figures against hand-made cases and against plain float64 attention."""

import numpy as np
import pytest

from tqcli.metrics import attention
from tqcli.metrics.attention import Scoring, attend
from tqcli.metrics.attention_keys import Error, Keys
from tqcli.metrics.causal import Span

NAMES = (
    "score_rmse",
    "attention_kl",
    "attention_kl_p99",
    "attention_kl_max",
    "top1",
    "output_error_k",
    "output_error_v",
    "output_error_kv",
)


def measure(q, k, k_new, v, v_new, scale, window=None, softcap=None, sinks=4):
    """Measures of one KV head and one sequence."""
    shift, tokens = softcap is None, k.shape[0]
    keys = Keys.of(k, v, shift=shift)
    error = Error.of(k, k_new, v, v_new, sinks=sinks, shift=shift)
    scoring = Scoring(scale, softcap, sinks)
    span, positions = Span(0, tokens, window), np.arange(tokens)
    (stats,) = attend(q, keys, [error], span, positions, scoring, 0)
    return stats.measures()


def test_two_tokens_by_hand():
    """Query 1 weighs its keys 1/2, 1/2, and after quantization 1/4, 3/4: every figure is known."""
    q, k, v = np.ones((1, 2, 1)), np.zeros((2, 1)), np.array([[0.0], [1.0]])
    k_new = np.array([[0.0], [np.log(3)]])
    found = measure(q, k, k_new, v, 2 * v, 1.0, sinks=0)
    assert found["queries"] == 2
    assert found["attention_kl_max"] == pytest.approx(0.5 * np.log(4 / 3), rel=1e-6)
    assert found["attention_kl"] == pytest.approx(0.25 * np.log(4 / 3), rel=1e-6)
    assert found["score_rmse"] == pytest.approx(np.sqrt(np.log(3) ** 2 / 2 / 3), rel=1e-6)
    assert found["top1"] == 0.5  # a tie goes to the first key; afterwards the second one leads
    assert found["output_error_k"] == pytest.approx((0.75 - 0.5) ** 2 / 0.5**2, rel=1e-6)
    assert found["output_error_v"] == pytest.approx(1.0, rel=1e-6)
    assert found["output_error_kv"] == pytest.approx((1.5 - 0.5) ** 2 / 0.5**2, rel=1e-6)


def test_one_token_sees_itself_alone():
    """A single key has weight 1 whatever its score: only V can err."""
    one = np.ones((1, 64))
    found = measure(np.ones((2, 1, 64)), one, 5 * one, one, 1.5 * one, 0.125)
    assert found["attention_kl"] == found["score_rmse"] == found["output_error_k"] == 0
    assert found["output_error_v"] == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize("tile", [64, 1 << 10, 1 << 18])
@pytest.mark.parametrize("window", [None, 5, 17])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("sinks", [0, 4])
def test_equals_plain_float64(gaussian, plain, monkeypatch, tile, window, softcap, sinks):
    """Tiles, parts and float32 change nothing: within 1e-4 of attention written query by query."""
    monkeypatch.setattr(attention, "TILE", tile)
    k, v = gaussian(37, 16, seed=3), gaussian(37, 16, seed=4) + 0.3
    k_new, v_new = k + 0.2 * gaussian(37, 16, seed=5), v + 0.1 * gaussian(37, 16, seed=6)
    q = 2 * gaussian(3, 37, 16, seed=8)
    arguments = (q, k, k_new, v, v_new, 0.25, window, softcap, sinks)
    found = measure(*arguments)
    scopes = {"": "all", "_rest": "rest"} | ({"_sinks": "sinks"} if sinks else {})
    for tail, scope in scopes.items():
        expected = plain(*arguments, scope=scope)
        for name in NAMES:
            assert found[f"{name}{tail}"] == pytest.approx(expected[name], rel=1e-4, abs=1e-7)


def test_no_sinks_have_no_share():
    """With no token told apart, the rest is everything and the sinks are nothing."""
    random = np.random.default_rng(3)
    k, v, q = (random.standard_normal(s) for s in ((20, 8), (20, 8), (1, 20, 8)))
    found = measure(q, k, 1.1 * k, v, v * 1.1, 0.3, sinks=0)
    for name in NAMES:
        assert found[f"{name}_rest"] == pytest.approx(found[name], rel=1e-5)
        assert found[f"{name}_sinks"] == (1 if name == "top1" else 0)


def test_equal_cache_is_exactly_nothing(gaussian):
    """Reference equal to candidate gives 0 and 1, not rounding."""
    k, v, q = gaussian(50, 64, seed=3), gaussian(50, 64, seed=4), gaussian(3, 50, 64, seed=5)
    found = measure(q, k, k, v, v, 0.125)
    for name, value in found.items():
        if name != "queries":
            assert value == (1 if name.startswith("top1") else 0), name


def test_offset_of_all_keys_is_not_seen(gaussian):
    """A vector added to every key moves no weight: no figure may see it."""
    k, v, q = gaussian(50, 64, seed=3), gaussian(50, 64, seed=4), gaussian(3, 50, 64, seed=5)
    found = measure(q, k, k + 3 * gaussian(1, 64, seed=6), v, v, 0.125)
    assert found["score_rmse"] < 1e-4
    assert found["attention_kl_max"] < 1e-6
    assert found["output_error_k"] < 1e-10
    assert found["top1"] == 1


def test_large_offset_keeps_its_digits(gaussian, plain):
    """Keys that share an offset 50 times their own size are where float32 scores fail."""
    k = gaussian(60, 64, seed=3) + 400 * gaussian(1, 64, seed=9) / 8
    k_new = k + 0.05 * gaussian(60, 64, seed=5)
    v, q = gaussian(60, 64, seed=4), 5 * gaussian(2, 60, 64, seed=6)
    found, expected = (f(q, k, k_new, v, v, 0.125) for f in (measure, plain))
    for name in ("score_rmse", "attention_kl", "output_error_k"):
        assert found[name] == pytest.approx(expected[name], rel=1e-3)


def test_scores_beyond_float32_range(gaussian, plain):
    """Scores of thousands, as a destroyed K gives them, must not overflow the exponential."""
    k, v, q = gaussian(30, 64, seed=3), gaussian(30, 64, seed=4), gaussian(2, 30, 64, seed=6)
    found, expected = (f(400 * q, k, -k, v, v, 1.0) for f in (measure, _plain_log(plain)))
    assert np.isfinite([v for v in found.values() if v is not None]).all()
    assert found["output_error_k"] == pytest.approx(expected["output_error_k"], rel=1e-4)


def _plain_log(plain):
    """The plain measures, whose KL may take the logarithm of 0."""

    def run(*arguments):
        with np.errstate(divide="ignore", invalid="ignore"):
            return plain(*arguments)

    return run


def test_projection_is_the_gram_energy(gaussian):
    """Behind W_o the energy of an error e is e @ gram @ e."""
    k, v, q = gaussian(20, 8, seed=3), gaussian(20, 8, seed=4), gaussian(1, 20, 8, seed=5)
    v_new, root = v + 0.1 * gaussian(20, 8, seed=6), gaussian(8, 8, seed=8).astype(np.float64)
    keys, error = Keys.of(k, v, project=root), Error.of(k, k, v, v_new, sinks=4, project=root)
    span, scoring = Span(0, 20), Scoring(0.3)
    (stats,) = attend(q, keys, [error], span, np.arange(20), scoring, 0)
    found = stats.measures()["output_error_v"]
    gram, error, signal = root @ root.T, 0.0, 0.0
    for at in range(20):
        scores = 0.3 * k[: at + 1] @ q[0, at]
        w = np.exp(scores - scores.max())
        w /= w.sum()
        e, o = w @ (v_new - v)[: at + 1], w @ v[: at + 1]
        error, signal = error + e @ gram @ e, signal + o @ gram @ o
    assert found == pytest.approx(error / signal, rel=1e-4)
