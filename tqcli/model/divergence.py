"""What a quantized run did to the next-token distributions of a float run."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.model.writer import Effect

F64 = NDArray[np.float64]

_ROWS = 64  # positions that are worked on at a time
_EXP_SAFE = 40.0  # beyond this difference of logits, exp is taken in float64
_ARRAYS = ("kl", "same_top1", "nll", "nll_float")


@dataclass(frozen=True)
class Divergence:
    """One text, one plan: a figure for each scored position.

    Parameters
    ----------
    kl : float64 array, shape (positions,)
        KL(float run || quantized run) of the next token, in nats.
    same_top1 : float64 array, shape (positions,)
        1 where both hold the same token for the likeliest.
    nll, nll_float : float64 array, shape (positions with a known next token,)
        Negative log-likelihood of it in the quantized and in the float run, in nats.
    logit_change : float
        Largest difference of a logit.
    effects : mapping of str to Effect
        By ``layers.{i}.{side}``.
    """

    kl: F64
    same_top1: F64
    nll: F64
    nll_float: F64
    logit_change: float
    effects: Mapping[str, Effect] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON values that :meth:`from_json` reads back exactly."""
        data: dict[str, Any] = {
            name: base64.b64encode(getattr(self, name).astype("<f8").tobytes()).decode()
            for name in _ARRAYS
        }
        data["logit_change"] = self.logit_change
        data["effects"] = {
            name: [e.written, e.changed, e.nbytes] for name, e in self.effects.items()
        }
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Divergence:
        """Raises KeyError, TypeError or ValueError on anything else."""
        arrays = [np.frombuffer(base64.b64decode(data[name]), "<f8") for name in _ARRAYS]
        effects = {name: Effect(*map(int, counts)) for name, counts in data["effects"].items()}
        kl, same_top1, nll, nll_float = arrays
        return cls(kl, same_top1, nll, nll_float, float(data["logit_change"]), effects)


def compare(reference: Any, logits: Any, following: Sequence[int]) -> Divergence:
    """Hold the logits of a run against those of the float run.

    Parameters
    ----------
    reference, logits : float32 tensor, shape (positions, vocabulary)
    following : sequence of int
        The true next token of the first positions.

    Raises
    ------
    InputError
        A logit is NaN or infinite.
    """
    kl, top, nll, nll_float = [], [], [], []
    change = 0.0
    for start in range(0, len(reference), _ROWS):
        p, q = (run[start : start + _ROWS] for run in (reference, logits))
        for name, run in (("float", p), ("quantized", q)):
            if not bool(run.isfinite().all()):
                raise InputError(
                    f"{name} run: a logit is NaN or infinite; choose another --compute-dtype"
                )
        top.append(p.argmax(dim=-1) == q.argmax(dim=-1))
        largest = float((p - q).abs().max())
        change = max(change, largest)
        if largest > _EXP_SAFE:
            p, q = p.double(), q.double()
        divergence, shift, normalizer = _divergence(p, q)
        kl.append(divergence)
        tokens = list(following[start : start + _ROWS])
        rows = range(len(tokens))
        nll_float.append(normalizer[rows] - p[rows, tokens])
        nll.append((normalizer + shift)[rows] - q[rows, tokens])
    return Divergence(_numpy(kl), _numpy(top), _numpy(nll), _numpy(nll_float), change)


def _divergence(p: Any, q: Any) -> tuple[Any, Any, Any]:
    """KL of each row of logits `q` from `p`; log Z of `q` minus that of `p`; log Z of `p`.

    With ``d = q - p`` and its mean ``m`` under ``p``, the KL is ``log(1 + E[exp(r) - 1 - r])``,
    ``r = d - m``. Unlike a difference of two log-softmaxes this keeps its digits in float32 where
    the runs agree to a millionth: all terms of the sum are positive.
    """
    normalizer = p.logsumexp(dim=-1)
    weight = (p - normalizer[:, None]).exp()
    total = _sum(weight)
    difference = q - p
    mean = _sum(weight * difference) / total
    rest = difference - mean[:, None].to(difference.dtype)
    curve = rest.expm1() - rest
    kl = (_sum(weight * curve) / total).log1p()
    return kl, mean + kl, normalizer.double()


def _sum(values: Any) -> Any:
    return values.sum(dim=-1).double()


def _numpy(parts: Sequence[Any]) -> F64:
    return np.concatenate([part.numpy() for part in parts]).astype(np.float64)


def pooled(texts: Sequence[Divergence]) -> dict[str, float | int]:
    """The figures of a row: all positions of all texts together.

    ``kl_se`` takes the positions for independent, as llama.cpp's tool does; how much the texts
    differ stands beside it in the report.
    """
    kl = np.concatenate([text.kl for text in texts])
    nll = np.concatenate([text.nll for text in texts])
    nll_float = np.concatenate([text.nll_float for text in texts])
    effect = total_effect(texts)
    p90, p99, p999 = np.quantile(kl, (0.9, 0.99, 0.999))
    return {
        "kl_mean": float(kl.mean()),
        "kl_se": float(kl.std(ddof=1) / np.sqrt(kl.size)) if kl.size > 1 else 0.0,
        "kl_median": float(np.median(kl)),
        "kl_p90": float(p90),
        "kl_p99": float(p99),
        "kl_p999": float(p999),
        "kl_max": float(kl.max()),
        "same_top1": float(np.concatenate([text.same_top1 for text in texts]).mean()),
        "perplexity": float(np.exp(nll.mean())),
        "perplexity_float": float(np.exp(nll_float.mean())),
        "perplexity_ratio": float(np.exp(nll.mean() - nll_float.mean())),
        "positions": int(kl.size),
        "elements_written": effect.written,
        "elements_replaced": effect.changed,
        "replaced": effect.changed / effect.written,
        "bits_per_value": 8 * effect.nbytes / effect.written,
        "logit_change": max(text.logit_change for text in texts),
    }


def total_effect(texts: Iterable[Divergence], side: str = "") -> Effect:
    """Counts over all texts and layers, of one side if it is named."""
    total = Effect()
    for text in texts:
        for name, effect in text.effects.items():
            if name.endswith(side):
                total.add(effect)
    return total
