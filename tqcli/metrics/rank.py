"""Which cheap measure puts cache types into the order that the model puts them into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tqcli.errors import InputError

# Fewer rows are ordered alike by chance.
MIN_ROWS = 3


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks.

    NaN where one side has a single value only: it orders nothing.

    Examples
    --------
    >>> spearman([1, 2, 3, 4], [10, 100, 1000, 10000])
    1.0
    >>> spearman([1, 2, 3], [3, 2, 1])
    -1.0
    """
    a, b = (np.asarray(values, np.float64) for values in (x, y))
    if a.shape != b.shape or a.ndim != 1 or a.size < 2:
        raise InputError(f"rank correlation of shapes {a.shape} and {b.shape}; give two lists")
    a, b = _ranks(a), _ranks(b)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else float("nan")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    mean_rank: NDArray[np.float64] = np.cumsum(count) - (count - 1) / 2
    return mean_rank[place]


def rank_correlations(
    rows: Sequence[Mapping[str, Any]], target: str, measures: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Rank correlation of each measure with `target` over rows that have both.

    Parameters
    ----------
    rows : sequence of mapping
        One a cache type.
    target : str
        Key of the dear measure, ``kl_mean`` for instance.
    measures : sequence of str, optional
        Keys of the cheap ones; default every key with numbers.

    Returns
    -------
    list of dict
        ``measure``, ``spearman`` and ``rows`` (how many it is over), the strongest first; a
        measure that falls as the target rises has a negative one. Measures on fewer than
        :data:`MIN_ROWS` rows, or that are the same everywhere, are left out.
    """
    keys = measures or list(dict.fromkeys(key for row in rows for key in row if key != target))
    found = []
    for key in keys:
        pairs = [(row[key], row[target]) for row in rows if _number(row, key, target)]
        if len(pairs) < MIN_ROWS:
            continue
        value = spearman(*zip(*pairs, strict=True))
        if value == value:  # no NaN
            found.append({"measure": key, "spearman": value, "rows": len(pairs)})
    return sorted(found, key=lambda entry: -abs(entry["spearman"]))


def _number(row: Mapping[str, Any], *keys: str) -> bool:
    values = [row.get(key) for key in keys]
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
