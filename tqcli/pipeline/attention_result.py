"""Attention figures of the layers of a dump, and the columns that they become."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tqcli.metrics.attention_stats import COLUMN, CONFIDENCE, INTERVALS, AttentionStats, merged
from tqcli.words import counted


@dataclass(frozen=True, eq=False)
class LayerAttention:
    """What was measured of one layer.

    Attributes
    ----------
    measured, positions : int
        Query positions measured, and how many there are.
    projected : bool
        Outputs were taken behind the output projection.
    """

    stats: AttentionStats
    measured: int
    positions: int
    projected: bool

    @property
    def exact(self) -> bool:
        """Whether every query was measured."""
        return self.measured == self.positions


@dataclass(eq=False)
class AttentionEvaluation:
    """Layers that could be judged, why others could not, and what the figures leave out."""

    layers: dict[int, LayerAttention] = field(default_factory=dict)
    missing: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        """``<attention of 4 layers>``."""
        return f"<attention of {counted(len(self.layers), 'layer')}>"

    def figures(self, layer: int | None, side: str) -> dict[str, Any]:
        """Columns for the row of a layer and side, or of a side over all layers (None).

        ``output_error`` is that of this side alone, ``output_error_both`` of both sides. Over all
        layers they are sums of the layers' figures; the other measures are pooled over queries.
        """
        chosen = [one for index, one in self.layers.items() if layer in (None, index)]
        if not chosen:
            return dict.fromkeys(KEYS_OF_SIDE["k"])
        stats = chosen[0].stats if layer is not None else _pooled(chosen)
        known = stats.measures()
        if layer is None:
            for name in known:
                if name.startswith("output_error"):
                    known[name] = _total([one.stats.measures()[name] for one in chosen])
        known |= {"positions": sum(one.measured for one in chosen)}
        exact = all(one.exact for one in chosen)
        for name, interval in ({} if exact else _intervals(chosen)).items():
            known[f"{name}_low"], known[f"{name}_high"] = interval or (None, None)
        names = KEYS_OF_SIDE[side]
        return {key: None if name is None else known.get(name) for key, name in names.items()}

    def extend(self, rows: list[dict[str, Any]]) -> None:
        """Add the columns to the rows of an evaluation; rows of one head get none."""
        for row in rows:
            if row["head"] is not None:
                row |= dict.fromkeys(KEYS_OF_SIDE["k"])
            else:
                layer = None if row["layer"] == "all" else row["layer"]
                row |= self.figures(layer, row["side"])


def _columns(side: str) -> dict[str, str | None]:
    """Name in a row of `side` -> name of the figure; K alone moves the scores."""
    of_k = [
        f"{name}{tail}"
        for tail in ("", "_sinks", "_rest")
        for name in (
            "score_rmse",
            "attention_kl",
            "attention_kl_p99",
            "attention_kl_max",
            "top1",
        )
    ] + ["attention_kl_low", "attention_kl_high"]
    columns: dict[str, str | None] = {"positions": "positions", "queries": "queries"}
    for tail in ("", "_sinks", "_rest", "_low", "_high"):
        columns[f"output_error{tail}"] = f"output_error_{side}{tail}"
        columns[f"output_error_both{tail}"] = f"output_error_kv{tail}"
    return columns | {name: name if side == "k" else None for name in of_k}


KEYS_OF_SIDE = {side: _columns(side) for side in "kv"}


def _pooled(layers: list[LayerAttention]) -> AttentionStats:
    """Queries of all layers together; rows of equal positions need not be told apart."""
    return merged([one.stats for one in layers])


def _total(values: list[Any]) -> float | None:
    return None if None in values else float(sum(values))


def _intervals(layers: list[LayerAttention]) -> dict[str, tuple[float, float] | None]:
    """Bootstrap intervals; over several layers, positions are drawn for all of them at once.

    The error of each layer is a ratio of its own, and their sum is resampled as a sum. Layers
    whose positions differ in number are drawn independently.
    """
    if len(layers) == 1:
        return layers[0].stats.intervals()
    pooled = _pooled(layers).intervals()
    drawn = [one.stats.resampled() for one in layers]
    for name, part in INTERVALS.items():
        if name.startswith("output_error"):
            with np.errstate(divide="ignore", invalid="ignore"):
                total = sum(s[:, COLUMN[part]] / s[:, COLUMN["signal"]] for s in drawn)
            tail = 50 * (1 - CONFIDENCE)
            low, high = np.percentile(total, [tail, 100 - tail])
            pooled[name] = (float(low), float(high)) if np.isfinite(high) else None
    return pooled
