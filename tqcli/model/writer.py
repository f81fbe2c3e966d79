"""One side of one layer of a cache: what is written goes through a codec, and is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.codecs import Codec, codec
from tqcli.errors import InputError
from tqcli.model.cacheplan import Side, SideType

F32 = NDArray[np.float32]


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


class SideWriter:
    """Encode and decode what a model writes into one side of one layer.

    Parameters
    ----------
    layer : int
    side : {"k", "v"}
    type : SideType
    keep_first : int
        Tokens before this position are stored in float16.
    mean : float32 array, shape (batch, num_kv_heads, 1, head_dim), optional
        For ``+center``: taken away before encoding and added back after, rounded to float16.
    """

    def __init__(
        self, layer: int, side: Side, type: SideType, *, keep_first: int, mean: F32 | None = None
    ) -> None:
        self.layer, self.side, self.type, self.keep_first = layer, side, type, keep_first
        self.effect = Effect()
        self._float16 = codec("f16")
        self._codecs: tuple[Codec, ...] = ()
        self._mean: F32 | None = None
        if type.center and mean is not None:
            self._mean = self._through((self._float16,), mean)

    def __call__(self, states: Any, first: int) -> Any:
        """:meth:`store` for a tensor; the result has its dtype and device, and is counted."""
        import torch

        stored = self.store(states.detach().float().cpu().numpy(), first)
        result = torch.from_numpy(stored).to(dtype=states.dtype, device=states.device)
        self.effect.written += stored.size
        self.effect.changed += int(torch.count_nonzero(result != states))
        return result

    def store(self, values: F32, first: int = 0) -> F32:
        """What the cache holds after `values` were written.

        Parameters
        ----------
        values : float32 array, shape (batch, num_kv_heads, tokens, head_dim)
        first : int
            Position of its first token in the sequence.

        Returns
        -------
        float32 array of the same shape

        Raises
        ------
        InputError
            The codec cannot hold such vectors: NaN, a scale beyond float16, another head_dim.
        """
        if not self._codecs:
            _, heads, _, head_dim = values.shape
            self._codecs = self.type.codecs_for(self.layer, self.side, heads, head_dim)
        kept = min(max(self.keep_first - first, 0), values.shape[2])
        parts = [
            self._through((self._float16,), values[:, :, :kept]),
            self._quantized(values[:, :, kept:]),
        ]
        return np.concatenate(parts, axis=2)

    def _quantized(self, values: F32) -> F32:
        if self._mean is None or not values.shape[2]:
            return self._through(self._codecs, values)
        return self._through(self._codecs, values - self._mean) + self._mean

    def _through(self, chosen: tuple[Codec, ...], values: F32) -> F32:
        """Encode and decode along the heads; counts the bytes."""
        if not values.size:
            return values
        head_dim = values.shape[-1]
        heads = np.split(values, len(chosen), axis=1)
        try:
            blocks = [one.encode(part) for one, part in zip(chosen, heads, strict=True)]
        except InputError as error:
            raise InputError(f"layers.{self.layer}.{self.side}: {error}") from error
        self.effect.nbytes += sum(part.nbytes for part in blocks)
        decoded = [one.decode(part, head_dim) for one, part in zip(chosen, blocks, strict=True)]
        return np.concatenate(decoded, axis=1)
