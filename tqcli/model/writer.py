"""One side of one layer of a cache: what is written goes through its plan, and is counted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.plan.bits import SideShape, side_bytes
from tqcli.plan.center import Center
from tqcli.plan.plan import Plan
from tqcli.plan.side import SidePlan
from tqcli.plan.tokens import Tokens
from tqcli.plan.types import SideType

F32 = NDArray[np.float32]
_FLOAT16 = Plan(SideType("f16"), SideType("f16"))


@dataclass
class Effect:
    """What writing through a codec did to the elements of a cache.

    Parameters
    ----------
    written : int
        Elements that were written.
    changed : int
        Elements that are not what the model wrote.
    nbytes : int
        What storing them takes: blocks, tokens kept in float16, means.
    """

    written: int = 0
    changed: int = 0
    nbytes: int = 0

    def add(self, other: Effect) -> None:
        """Take in another count."""
        self.written += other.written
        self.changed += other.changed
        self.nbytes += other.nbytes


@lru_cache(maxsize=64)
def _tokens(first: int, count: int) -> Tokens:
    """Tokens of one text, which all layers share: angles of RoPE are computed once."""
    return Tokens.of_text(first, count)


class SideWriter:
    """Encode and decode what a model writes into one side of one layer.

    Parameters
    ----------
    plan : Plan
        Its last tokens are those of each piece that is written.
    shape : SideShape
    center : Center, optional
        Needed for ``+center``.
    """

    def __init__(self, plan: Plan, shape: SideShape, center: Center | None = None) -> None:
        place = shape.layer, shape.side, shape.heads, shape.head_dim
        self.shape, self.layer, self.side = shape, shape.layer, shape.side
        self.stored = SidePlan(plan, *place, center, fix="")
        floats = plan.type_of(shape.layer, shape.side).quantizes
        # A type that is float already has no other way to hold a new token.
        self._new = SidePlan(_FLOAT16, *place, fix="") if floats else self.stored
        mean = self.stored.center
        self.effect = Effect(nbytes=0 if mean is None else mean.mean.nbytes)

    def __call__(self, states: Any, first: int) -> Any:
        """:meth:`store` for a tensor; the result has its dtype and device, and is counted."""
        import torch

        result = _like(self.store(_array(states), first), states)
        self.effect.written += states.numel()
        self.effect.changed += int(torch.count_nonzero(result != states))
        return result

    def store(self, values: F32, first: int = 0) -> F32:
        """What the cache holds after `values` were written.

        Parameters
        ----------
        values : float32 array, shape (1, num_kv_heads, tokens, head_dim)
        first : int
            Position of its first token in the sequence.

        Returns
        -------
        float32 array of the same shape

        Raises
        ------
        InputError
            The codec cannot hold such vectors: NaN, a scale beyond float16.
        """
        made = self.stored.store(values, _tokens(first, values.shape[2]))
        self.effect.nbytes += made.blocks.nbytes + made.kept.nbytes
        return np.asarray(self.stored.load(made))

    def new(self, states: Any, first: int) -> Any:
        """What the cache holds of tokens that are not old enough to be quantized."""
        made = self._new.store(_array(states), _tokens(first, int(states.shape[2])))
        return _like(self._new.load(made), states)

    def count_kept(self, plan: Plan, tokens: int) -> None:
        """Count the bytes of the cache under `plan`, last tokens that stay float included."""
        self.effect.nbytes = side_bytes(plan, self.shape, tokens)


def _array(states: Any) -> F32:
    values: F32 = states.detach().float().cpu().numpy()
    return values


def _like(values: NDArray[Any], states: Any) -> Any:
    import torch

    return torch.from_numpy(values).to(dtype=states.dtype, device=states.device)
