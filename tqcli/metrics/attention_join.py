"""Attention over sinks and rest together: what it gives, and what errors of either change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.metrics.attention_keys import F32, F64
from tqcli.metrics.attention_parts import Change, Part, Peak
from tqcli.metrics.attention_stats import COLUMN, FIELDS, SCOPES, SIDES
from tqcli.metrics.causal import Ints


@dataclass(frozen=True, eq=False)
class Joined:
    """A softmax over both parts: its log sum, its largest key, and the weights of both parts."""

    log_sum: F64
    top_key: Ints
    shares: tuple[F64, F64]

    @classmethod
    def of(cls, sink: Peak, rest: Peak) -> Joined:
        """One softmax of two; either may be the original or the changed one."""
        log_sum = np.logaddexp(sink.log_sum, rest.log_sum)
        top_key = np.where(sink.top >= rest.top, sink.top_key, rest.top_key)
        share = np.exp(sink.log_sum - log_sum)
        return cls(log_sum, top_key, (share, 1 - share))


class Original:
    """Attention over sinks and rest without an error, against which candidates are held.

    Parameters
    ----------
    sink, rest : Part
    shape : (heads, positions)
        Of the rows.
    """

    def __init__(self, sink: Part, rest: Part, shape: tuple[int, int]) -> None:
        self.parts, self.shape = (sink, rest), shape
        self.seen = sink.seen + rest.seen
        self.joined = Joined.of(sink.peak, rest.peak)
        self.apart = sink.out - rest.out
        out = _sum(
            [(share, part.out) for share, part in zip(self.joined.shares, self.parts, strict=True)]
        )
        self.signal = _energy(out, self.seen.size)

    def measure(self, changes: tuple[Change, Change]) -> tuple[F64, F64]:
        """What errors do to attention over both parts, in every scope.

        Parameters
        ----------
        changes : (Change, Change)
            What the errors do to either part.

        Returns
        -------
        table : float64 array, shape (positions, len(FIELDS))
            Summed over the heads.
        divergences : float64 array, shape (scopes, heads * positions)
            KL of each query.
        """
        count = self.seen.size
        rows: dict[str, NDArray[Any]] = {
            "queries": np.ones(count),
            "pairs": self.seen,
            "signal": self.signal,
        }
        divergences = np.empty((len(SCOPES), count))
        for at, scope in enumerate(SCOPES):
            used = [i for i, other in enumerate(("rest", "sinks")) if scope != other]
            new = Joined.of(*((changes if i in used else self.parts)[i].peak for i in (0, 1)))
            drift = sum(self.joined.shares[i] * changes[i].drift for i in used)
            # log W - log W' is (log sum' - log sum) - change; less than nothing is rounding.
            divergences[at] = np.maximum(new.log_sum - self.joined.log_sum - drift, 0)
            rows[f"kl_{scope}"] = divergences[at]
            rows[f"score_{scope}"] = self._spread(changes, used)
            rows[f"top_{scope}"] = new.top_key == self.joined.top_key
            for side, error in zip(SIDES, self._errors(changes, new, used), strict=True):
                rows[f"{side}_{scope}"] = _energy(error, count)
        heads, positions = self.shape
        table = np.empty((positions, len(FIELDS)))
        for name, values in rows.items():
            table[:, COLUMN[name]] = values.reshape(heads, positions).sum(axis=0)
        return table, divergences

    def _errors(
        self, changes: tuple[Change, Change], new: Joined, used: list[int]
    ) -> tuple[F32 | None, F32 | None, F32 | None]:
        """The error of the output for K alone, V alone and both, where the parts `used` err."""
        by_k = _sum([(new.shares[i], changes[i].out_k) for i in used])
        if by_k is not None:  # weight moves within either part, and from one part to the other
            by_k += _scaled(new.shares[0] - self.joined.shares[0], self.apart)
        by_v = _sum([(self.joined.shares[i], changes[i].out_v) for i in used])
        by_both = _sum([(new.shares[i], changes[i].out_kv) for i in used])
        if by_both is None:
            by_both = by_k
        elif by_k is not None:
            by_both += by_k
        return by_k, by_v, by_both

    def _spread(self, changes: tuple[Change, Change], used: list[int]) -> F64:
        """Sum of squared changes of score about their mean over the keys that a query sees."""
        total, square = np.zeros(self.seen.size), np.zeros(self.seen.size)
        # What all changes share spreads nothing, unless the keys of one part alone are changed.
        shared = changes[1].common if len(used) > 1 else 0.0
        for i in used:
            common, seen = changes[i].common - shared, self.parts[i].seen
            total += changes[i].total + seen * common
            square += changes[i].square + (2 * changes[i].total + seen * common) * common
        return np.maximum(square - total**2 / self.seen, 0)


def _sum(terms: list[tuple[F64, F32 | None]]) -> F32 | None:
    """Weighted rows, summed; None where there are none."""
    total = None
    for weight, rows in terms:
        if rows is not None:
            scaled = _scaled(weight, rows)
            total = scaled if total is None else np.add(total, scaled, out=scaled)
    return total


def _scaled(weight: F64, rows: F32) -> F32:
    return rows * weight.astype(np.float32)[:, None]


def _energy(rows: F32 | None, count: int) -> F64:
    if rows is None:
        return np.zeros(count)
    energy: F64 = np.einsum("ij,ij->i", rows, rows).astype(np.float64)
    return energy
