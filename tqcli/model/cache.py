"""A transformers cache whose layers write through a plan.

Two ways to get one. :func:`on_the_fly` gives an empty cache that encodes whatever the model writes
and hands the decoded values back, so that the tokens of the same pass, too, attend to what is
stored, as an engine's would. :func:`replaced` takes the float cache of a prefix, passes it through
the plan once and leaves what comes after float.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tqcli.model.writer import SideWriter
from tqcli.plan.bits import SideShape
from tqcli.plan.center import Center
from tqcli.plan.plan import Plan

if TYPE_CHECKING:

    class _CacheLayer:
        """The part of a transformers cache layer that is used here."""

        keys: Any
        values: Any

        def update(self, k: Any, v: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]: ...
        def get_seq_length(self) -> int: ...

else:
    _CacheLayer = object

Centers = Mapping[int, Center]
Writers = dict[int, tuple[SideWriter, SideWriter]]


class WritingLayer(_CacheLayer):
    """Mixed in before a cache layer's class: passes K and V through writers on their way in.

    With last tokens that stay float, it hands out the stored tokens and behind them the youngest
    once more, in float: :mod:`tqcli.model.age` lets each query see one of the two.
    """

    writers: tuple[SideWriter, SideWriter]
    seen: int  # tokens written so far, by which a sliding layer's are numbered too
    keep_last: int
    young: list[Any]  # K and V in float16's values, of the last keep_last - 1 tokens

    def update(self, k: Any, v: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Store K and V of new tokens; give back all that these tokens may attend to."""
        write_k, write_v = self.writers
        first, self.seen = self.seen, self.seen + int(k.shape[-2])
        stored = super().update(write_k(k, first), write_v(v, first), *args, **kwargs)
        if not self.keep_last:
            return stored
        return self._with_young(stored[0], k, first, 0), self._with_young(stored[1], v, first, 1)

    def _with_young(self, stored: Any, states: Any, first: int, side: int) -> Any:
        import torch

        new = self.writers[side].new(states, first)
        if self.young[side] is not None:
            new = torch.cat([self.young[side], new], dim=2)
        self.young[side] = new[:, :, max(new.shape[2] - self.keep_last + 1, 0) :]
        beyond = max(new.shape[2] - stored.shape[2], 0)  # what a sliding layer has let go
        return torch.cat([stored, new[:, :, beyond:]], dim=2)


def make_writers(plan: Plan, shapes: Iterable[SideShape], centers: Centers) -> Writers:
    """A pair of writers for each layer; `shapes` are K's and V's of each, one after the other."""
    found: dict[int, list[SideWriter]] = {}
    for shape in shapes:
        center = centers.get(shape.layer) if shape.side == "k" else None
        found.setdefault(shape.layer, []).append(SideWriter(plan, shape, center))
    return {layer: (k, v) for layer, (k, v) in found.items()}


def on_the_fly(config: Any, writers: Writers, keep_last: int = 0) -> Any:
    """An empty ``DynamicCache`` that writes through `writers`.

    Parameters
    ----------
    config : a transformers config
    writers : dict of int to pairs of SideWriter
        By layer; of a plan that keeps no last tokens.
    keep_last : int
        So many tokens stay float after they were written; the model must then read the cache with
        :func:`tqcli.model.age.reading`.
    """
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=config)
    for index, pair in writers.items():
        layer = cache.layers[index]
        new: WritingLayer = object.__new__(
            type(f"Writing{type(layer).__name__}", (WritingLayer, type(layer)), {})
        )
        vars(new).update(vars(layer))
        new.writers, new.seen = pair, 0
        new.keep_last, new.young = keep_last, [None, None]
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
