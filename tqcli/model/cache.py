"""A transformers cache whose layers write through a codec.

Two ways to get one. :func:`on_the_fly` gives an empty cache that encodes whatever the model writes
and hands the decoded values back, so that the tokens of the same pass, too, attend to what is
stored, as an engine's would. :func:`replaced` takes the float cache of a prefix, passes it through
the codec once and leaves what comes after float.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tqcli.model.cacheplan import SIDES, CachePlan, Side
from tqcli.model.writer import SideWriter

if TYPE_CHECKING:

    class _CacheLayer:
        """The part of a transformers cache layer that is used here."""

        keys: Any
        values: Any

        def update(self, k: Any, v: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]: ...
        def get_seq_length(self) -> int: ...

else:
    _CacheLayer = object

Means = Mapping[int, NDArray[np.float32]]
Writers = dict[int, tuple[SideWriter, SideWriter]]


class WritingLayer(_CacheLayer):
    """Mixed in before a cache layer's class: passes K and V through writers on their way in."""

    writers: tuple[SideWriter, SideWriter]
    seen: int  # tokens written so far, by which a sliding layer's are numbered too

    def update(self, k: Any, v: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Store K and V of new tokens; give back all that these tokens may attend to."""
        write_k, write_v = self.writers
        first, self.seen = self.seen, self.seen + int(k.shape[-2])
        return super().update(write_k(k, first), write_v(v, first), *args, **kwargs)


def make_writers(plan: CachePlan, layers: Mapping[int, Any], means: Means) -> Writers:
    """A pair of writers for each of `layers`."""

    def one(layer: int, side: Side) -> SideWriter:
        mean = means.get(layer) if side == "k" else None
        chosen = plan.type_of(layer, side)
        return SideWriter(layer, side, chosen, keep_first=plan.keep_first, mean=mean)

    return {layer: (one(layer, SIDES[0]), one(layer, SIDES[1])) for layer in layers}


def on_the_fly(config: Any, writers: Writers) -> Any:
    """An empty ``DynamicCache`` that writes through `writers`."""
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=config)
    for index, pair in writers.items():
        layer = cache.layers[index]
        new: WritingLayer = object.__new__(
            type(f"Writing{type(layer).__name__}", (WritingLayer, type(layer)), {})
        )
        vars(new).update(vars(layer))
        new.writers, new.seen = pair, 0
        cache.layers[index] = new
    return cache


def replaced(cache: Any, writers: Writers) -> Any:
    """A copy of a filled float cache with K and V passed through `writers`."""
    copied: Any = copy.deepcopy(cache)
    for index, (write_k, write_v) in writers.items():
        layer = copied.layers[index]
        first = layer.get_seq_length() - layer.keys.shape[-2]
        layer.keys = write_k(layer.keys, first)
        layer.values = write_v(layer.values, first)
    return copied


def key_means(cache: Any, layers: Mapping[int, Any], keep_first: int) -> Means:
    """Mean of K over the tokens from `keep_first` on, by layer: (batch, num_kv_heads, 1, head_dim).

    Layers that hold no such token (a window that is shorter) have none.
    """
    means = {}
    for index in layers:
        layer = cache.layers[index]
        first = layer.get_seq_length() - layer.keys.shape[-2]
        keys = layer.keys[:, :, max(keep_first - first, 0) :]
        if keys.shape[2]:
            means[index] = keys.float().mean(dim=2, keepdim=True).cpu().numpy()
    return means
