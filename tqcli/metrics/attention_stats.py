"""Attention measures as sums per query position: they merge, and they can be resampled.

Positions are the unit of sampling and of the bootstrap: all heads of a token move together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tqcli.metrics.causal import Ints

F64 = NDArray[np.float64]

# Whose error is let in: every token's, only the first tokens', only the others'.
SCOPES = ("all", "sinks", "rest")
# Which side is quantized: K alone, V alone, both.
SIDES = ("k", "v", "kv")
# Sums over the query heads of one position.
FIELDS = (
    "queries",  # query heads
    "pairs",  # visible keys, summed over the heads
    "signal",  # energy of the attention output
    *(f"score_{scope}" for scope in SCOPES),  # squared score error modulo a constant per query
    *(f"kl_{scope}" for scope in SCOPES),
    *(f"top_{scope}" for scope in SCOPES),  # queries whose largest weight stays on its key
    *(f"{side}_{scope}" for side in SIDES for scope in SCOPES),  # energy of the output's error
)
COLUMN = {name: index for index, name in enumerate(FIELDS)}

# Not a seed that any rotation is made from.
SEED = 20_260_415
RESAMPLES = 1000
CONFIDENCE = 0.95
_KEY_SHIFT = 32  # a row is named by sequence << 32 | position


@dataclass(eq=False)
class AttentionStats:
    """What quantization does to the attention of one layer (or of several).

    Attributes
    ----------
    keys : int array, shape (positions,)
        Sequence and position of each row, ascending once merged.
    table : float64 array, shape (positions, len(FIELDS))
    divergences : list of float32 arrays, shape (scopes, queries)
        KL of every query, for percentiles.
    """

    keys: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    table: F64 = field(default_factory=lambda: np.empty((0, len(FIELDS))))
    divergences: list[NDArray[np.float32]] = field(default_factory=list)

    @classmethod
    def of(cls, sequence: int, positions: Ints, table: F64, divergences: F64) -> AttentionStats:
        """One row per position of a sequence, and the KL of each of its queries."""
        keys = (np.int64(sequence) << _KEY_SHIFT) | positions.astype(np.int64)
        return cls(keys, table, [divergences.astype(np.float32)])

    def merge(self, other: AttentionStats) -> AttentionStats:
        """The accumulator of both; rows of the same position are added."""
        return merged([self, other])

    def column(self, name: str) -> F64:
        """One field, a value per position."""
        return self.table[:, COLUMN[name]]

    def measures(self) -> dict[str, float | int | None]:
        """The figures by name; None where no query was measured.

        ``score_rmse`` is in units of the scaled score (a difference of 1 changes a weight by e),
        KL in nats, ``top1`` a share of the queries. ``output_error_S`` is the energy of the
        output's error over the energy of the output, for S = k, v, kv. A name with ``_sinks`` or
        ``_rest`` lets in the error of those tokens only.
        """
        total = self.table.sum(axis=0)
        if not total[COLUMN["queries"]]:
            return dict.fromkeys(MEASURES)
        sums = dict(zip(FIELDS, total.tolist(), strict=True))
        kl = np.concatenate(self.divergences, axis=1)
        figures: dict[str, float | int | None] = {"queries": int(sums["queries"])}
        for at, scope in enumerate(SCOPES):
            tail = "" if scope == "all" else f"_{scope}"
            figures[f"score_rmse{tail}"] = float(np.sqrt(sums[f"score_{scope}"] / sums["pairs"]))
            figures[f"attention_kl{tail}"] = sums[f"kl_{scope}"] / sums["queries"]
            figures[f"attention_kl_p99{tail}"] = float(np.percentile(kl[at], 99))
            figures[f"attention_kl_max{tail}"] = float(kl[at].max())
            figures[f"top1{tail}"] = sums[f"top_{scope}"] / sums["queries"]
            for side in SIDES:
                error = sums[f"{side}_{scope}"]
                figures[f"output_error_{side}{tail}"] = _ratio(error, sums["signal"])
        return figures

    def resampled(self, resamples: int = RESAMPLES, seed: int = SEED) -> F64:
        """Sums of `resamples` bootstrap samples of the positions, shape (resamples, fields)."""
        count = self.keys.size
        random = np.random.default_rng(seed)
        weights = random.multinomial(count, np.full(count, 1 / count), resamples)
        return weights.astype(np.float64) @ self.table

    def intervals(
        self, resamples: int = RESAMPLES, seed: int = SEED
    ) -> dict[str, tuple[float, float] | None]:
        """95 % bootstrap intervals over positions of the mean KL and of the output errors."""
        if self.keys.size < 2:
            return dict.fromkeys(INTERVALS)
        sums = self.resampled(resamples, seed)
        below = {"attention_kl": "queries"}
        found: dict[str, tuple[float, float] | None] = {}
        for name, part in INTERVALS.items():
            whole = sums[:, COLUMN[below.get(name, "signal")]]
            found[name] = None if (whole <= 0).any() else _interval(sums[:, COLUMN[part]] / whole)
        return found


MEASURES = (
    "queries",
    *(
        f"{name}{tail}"
        for tail in ("", "_sinks", "_rest")
        for name in (
            "score_rmse",
            "attention_kl",
            "attention_kl_p99",
            "attention_kl_max",
            "top1",
            *(f"output_error_{side}" for side in SIDES),
        )
    ),
)
# Figures that get an interval, and the sum each is made from.
INTERVALS = {"attention_kl": "kl_all"} | {f"output_error_{side}": f"{side}_all" for side in SIDES}


def merged(parts: list[AttentionStats]) -> AttentionStats:
    """One accumulator of many."""
    if not parts:
        return AttentionStats()
    keys, rows = np.unique(np.concatenate([p.keys for p in parts]), return_inverse=True)
    table = np.zeros((keys.size, len(FIELDS)))
    np.add.at(table, rows, np.concatenate([p.table for p in parts]))
    return AttentionStats(keys, table, [d for p in parts for d in p.divergences])


def _ratio(part: float, whole: float) -> float | None:
    if whole > 0:
        return part / whole
    return 0.0 if part == 0 else None


def _interval(values: F64) -> tuple[float, float]:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
