"""A slow, plain attention in float64 to hold the measures against, and small dumps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import dump_record

Arrays = dict[str, np.ndarray]


def softmax(scores: np.ndarray) -> np.ndarray:
    """Weights of one row of scores."""
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def plain_measures(
    q: np.ndarray,
    k: np.ndarray,
    k_new: np.ndarray,
    v: np.ndarray,
    v_new: np.ndarray,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: int = 4,
    scope: str = "all",
) -> dict[str, float]:
    """Measures of one KV head, query by query: q (heads, n, d), the others (n, d), one sequence."""
    q, k, k_new, v, v_new = (a.astype(np.float64) for a in (q, k, k_new, v, v_new))
    kept = np.arange(k.shape[0]) < sinks
    if scope != "all":
        old = kept if scope == "rest" else ~kept
        k_new = np.where(old[:, None], k, k_new)
        v_new = np.where(old[:, None], v, v_new)
    divergences, agree, squares, pairs = [], [], 0.0, 0
    signal, errors = 0.0, dict.fromkeys(("k", "v", "kv"), 0.0)
    for head in q:
        for at, query in enumerate(head):
            seen = slice(0 if window is None else max(at - window + 1, 0), at + 1)
            s, s_new = scale * k[seen] @ query, scale * k_new[seen] @ query
            if softcap is not None:
                s, s_new = (softcap * np.tanh(one / softcap) for one in (s, s_new))
            w, w_new = softmax(s), softmax(s_new)
            divergences.append(float(np.sum(w * (np.log(w) - np.log(w_new)))))
            agree.append(s.argmax() == s_new.argmax())
            change = s_new - s
            squares += float(np.sum((change - change.mean()) ** 2))
            pairs += change.size
            out = w @ v[seen]
            signal += float(out @ out)
            for side, new in (
                ("k", w_new @ v[seen]),
                ("v", w @ v_new[seen]),
                ("kv", w_new @ v_new[seen]),
            ):
                errors[side] += float((new - out) @ (new - out))
    return {
        "score_rmse": float(np.sqrt(squares / pairs)),
        "attention_kl": float(np.mean(divergences)),
        "attention_kl_p99": float(np.percentile(divergences, 99)),
        "attention_kl_max": float(np.max(divergences)),
        "top1": float(np.mean(agree)),
        **{f"output_error_{side}": error / signal for side, error in errors.items()},
    }


@pytest.fixture(scope="session")
def plain() -> Callable[..., dict[str, float]]:
    """The float64 measures."""
    return plain_measures


@pytest.fixture
def write_dump(tmp_path: Path) -> Callable[..., Path]:
    """Write arrays of (batch, heads, seq_len, head_dim) as a dump."""

    def write(arrays: Mapping[str, np.ndarray], source: Mapping[str, Any] | None = None) -> Path:
        path = tmp_path / f"dump{len(list(tmp_path.iterdir()))}.safetensors"
        specs = [(name, array.dtype, array.shape) for name, array in arrays.items()]
        with ContainerWriter(path, specs, dump_record(source or {}, "original", "test")) as out:
            for name, array in arrays.items():
                out.write(name, [array])
        return path

    return write


@pytest.fixture
def layer(gaussian: Callable[..., np.ndarray]) -> Callable[..., Arrays]:
    """K, V and Q of one layer: 2 KV heads, 4 query heads, head_dim 64, any number of tokens."""

    def make(tokens: int = 40, batch: int = 1, index: int = 0) -> Arrays:
        sides = {"k": 2, "v": 2, "q": 4}
        return {
            f"layers.{index}.{side}": gaussian(batch, heads, tokens, 64, seed=11 + at)
            for at, (side, heads) in enumerate(sides.items())
        }

    return make
