"""A transformers cache whose K and V go through the archive code: a prefix at once, or on the fly.

K is coded before RoPE, so the rule that the model turns each layer by must be known.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tqcli.archive.api import decode, encode
from tqcli.archive.code import Code
from tqcli.archive.flow import Flow
from tqcli.rope import Rope, apply_rope, remove_rope

if TYPE_CHECKING:
    from tqcli.model.cache import _CacheLayer
else:
    _CacheLayer = object

_KEPT = 2  # bytes a value of the first tokens, which stay float16

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Archived:
    """An archived cache, and what storing it takes.

    Parameters
    ----------
    cache : DynamicCache
    nbytes : int
        Of tables, chunks and first tokens; without the side data.
    elements : int
        Values of K and V.
    """

    cache: Any
    nbytes: int
    elements: int

    @property
    def bits(self) -> float:
        """Bits per value."""
        return 8 * self.nbytes / self.elements


def archived(cache: Any, code: Code, ropes: Mapping[int, Rope], *, keep_first: int = 4) -> Archived:
    """What an archive of a filled cache gives back.

    Parameters
    ----------
    cache : DynamicCache
        With one sequence; a copy is changed.
    code : Code
    ropes : mapping of int to Rope
        Of every layer that the code has.
    keep_first : int
        Tokens that stay float16.
    """
    changed = copy.deepcopy(cache)
    rules = [ropes[i] for i in sorted(ropes)]
    states = [(changed.layers[i].keys[0], changed.layers[i].values[0]) for i in sorted(ropes)]
    arrays = [(_array(k), _array(v)) for k, v in states]
    made = encode(arrays, code, ropes=rules, keep_first=keep_first)
    for pair, back in zip(states, decode(made, code, ropes=rules), strict=True):
        for into, values in zip(pair, back, strict=True):
            _put(into, values)
    return Archived(changed, made.nbytes, sum(x.size for pair in arrays for x in pair))


class ArchivingLayer(_CacheLayer):
    """Mixed in before a cache layer's class: K and V come back from the code."""

    store: Callable[[Any, Any, int], tuple[Any, Any]]
    seen: int

    def update(self, k: Any, v: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Store K and V of new tokens; give back all that these tokens may attend to."""
        first, self.seen = self.seen, self.seen + int(k.shape[-2])
        return super().update(*self.store(k, v, first), *args, **kwargs)


class OnTheFly:
    """An empty cache that passes through the code whatever the model writes.

    Parameters
    ----------
    config : a transformers configuration
    code : Code
        With one layer a group: a layer attends before the next one is known.
    ropes : mapping of int to Rope
    keep_first : int
        Tokens that stay float16.
    """

    def __init__(
        self, config: Any, code: Code, ropes: Mapping[int, Rope], *, keep_first: int = 4
    ) -> None:
        from transformers import DynamicCache

        self.cache: Any = DynamicCache(config=config)
        self._flow, self._keep_first = Flow(code), keep_first
        self._ropes = [ropes[i] for i in sorted(ropes)]
        self._kept = self._elements = 0
        for place, index in enumerate(sorted(ropes)):
            self.cache.layers[index] = self._layer(place, self.cache.layers[index])

    def _layer(self, place: int, layer: Any) -> Any:
        new: Any = object.__new__(
            type(f"Archiving{type(layer).__name__}", (ArchivingLayer, type(layer)), {})
        )
        vars(new).update(vars(layer))
        new.store, new.seen = lambda k, v, first: self._store(place, k, v, first), 0
        return new

    def _store(self, place: int, k: Any, v: Any, first: int) -> tuple[Any, Any]:
        k, v = k.clone(), v.clone()
        kept = min(max(self._keep_first - first, 0), k.shape[-2])
        for states in (k, v):
            _put(states[0, :, :kept], _array(states[0, :, :kept]))
            self._kept += states[0, :, :kept].numel()
            self._elements += states.numel()
        positions = np.arange(first + kept, first + k.shape[-2])
        turned, plain = (_array(states[0, :, kept:]) for states in (k, v))
        rope = self._ropes[place]
        back, values = self._flow.write(place, remove_rope(turned, positions, rope), plain)
        _put(k[0, :, kept:], apply_rope(back, positions, rope))
        _put(v[0, :, kept:], values)
        return k, v

    def result(self) -> Archived:
        """The cache, and what an archive of all that was written takes."""
        return Archived(self.cache, self._flow.nbytes() + _KEPT * self._kept, self._elements)


def _array(states: Any) -> F32:
    """A tensor's values, float32."""
    values: F32 = states.detach().float().cpu().numpy()
    return values


def _put(states: Any, values: NDArray[Any]) -> None:
    """Write float16 roundings of `values` into a view of a tensor."""
    import torch

    states.copy_(torch.from_numpy(values.astype(np.float16)))
