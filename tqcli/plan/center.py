"""The mean of K that is taken away before encoding and added back after decoding.

It is one vector a KV head, of K *before* RoPE, and each key loses it turned by the key's own
position: a mean taken after RoPE fits the positions that it was taken at and no others. Stored as
float16: what is taken away is what is added back, so its rounding only lengthens the rest by about
2^-11 of the mean, at half the bytes of float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.kernels import center as kernels
from tqcli.plan.keysums import KeySums
from tqcli.plan.tokens import Tokens
from tqcli.rope import UNKNOWN_ROPE, Rope, rope_of

CALIBRATED, OWN = "calibrated mean", "own mean"
BEFORE, AFTER = "before RoPE", "after RoPE"


@dataclass(frozen=True, eq=False)
class Center:
    """The mean of K of one layer.

    Parameters
    ----------
    mean : float16 array, shape (num_kv_heads, head_dim)
    rope : Rope or None
        What turns it; None where it is the mean of K as the cache holds it.
    origin : str
        :data:`CALIBRATED`, or :data:`OWN` for that of the very tokens it is taken from.
    """

    mean: NDArray[np.float16]
    rope: Rope | None
    origin: str

    @classmethod
    def of(cls, mean: NDArray[Any], rope: Rope | None, origin: str, where: str) -> Center:
        """Round a mean to float16.

        Raises
        ------
        InputError
            A value is beyond float16, or not finite.
        """
        with np.errstate(over="ignore"):
            rounded = mean.astype(np.float16)
        if not np.isfinite(rounded).all():
            worst = float(np.abs(mean).max())
            raise InputError(
                f"{where}: the mean of K reaches {worst:.6g}; float16 holds up to 65504, leave "
                "+center out for this layer"
            )
        return cls(rounded, rope, origin)

    def __str__(self) -> str:
        """``calibrated mean before RoPE``, ``own mean after RoPE``."""
        return f"{self.origin} {AFTER if self.rope is None else BEFORE}"

    def take(
        self, x: NDArray[Any], head: int, tokens: Tokens, row: int, first: int, out: NDArray[Any]
    ) -> None:
        """Write ``x`` without the mean to `out`.

        Parameters
        ----------
        x : float array, shape (n, head_dim)
            Keys of tokens `first` to ``first + n - 1`` of a row.
        head : int
        tokens : Tokens
        row : int
            Of `tokens`.
        first : int
        out : float32 array, shape (n, head_dim)
        """
        mean = self.mean[head].astype(np.float32)
        for start, stop, turn in tokens.turns(self.rope).of(row, first, len(x)):
            kernels.take_mean(x[start:stop], turn, mean, out[start:stop])

    def give(
        self, x: NDArray[Any], head: int, tokens: Tokens, row: int, first: int, out: NDArray[Any]
    ) -> None:
        """Undo :meth:`take`: write float32 ``x`` with the mean to `out`, of any float dtype."""
        mean = self.mean[head].astype(np.float32)
        for start, stop, turn in tokens.turns(self.rope).of(row, first, len(x)):
            kernels.give_mean(x[start:stop], turn, mean, out.dtype, out[start:stop])


def known_rope(source: Any, layer: int, tokens: Tokens) -> Rope | None:
    """What turned K of a layer; None where the source does not say, or says no positions.

    Parameters
    ----------
    source : mapping
        Provenance of a dump.
    layer : int
    tokens : Tokens
        Of that layer.
    """
    if tokens.positions is None or "rope" not in source:
        return None
    rope = rope_of(source["rope"], layer)
    return None if rope.kind == UNKNOWN_ROPE else rope


def own_center(
    pieces: Iterable[tuple[int, NDArray[Any]]],
    shape: tuple[int, int, int, int],
    tokens: Tokens,
    rope: Rope | None,
    where: str,
) -> Center:
    """The mean of the very keys that it will be taken from, over tokens from the fifth on.

    Parameters
    ----------
    pieces : iterable of (first, float array (n, head_dim))
        K after RoPE in order, with the flat index of each piece's first vector.
    shape : tuple of int
        (batch, num_kv_heads, seq_len, head_dim).
    tokens : Tokens
    rope : Rope or None
        None where it is not known: then the mean is one of K after RoPE.
    where : str
        Names the tensor in errors.

    Raises
    ------
    InputError
        A value is not finite, or a mean beyond float16.
    """
    sums = KeySums(shape, tokens, rope, where)
    for first, piece in pieces:
        sums.add(first, piece)
    return Center.of(sums.mean(), rope, OWN, where)
