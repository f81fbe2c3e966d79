"""K and V of one KV head as attention needs them, and what a candidate adds to either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Keys:
    """K and V of one KV head of one sequence, float32.

    Attributes
    ----------
    k : (tokens, head_dim), less a vector common to all keys unless there is a softcap
    v : (tokens, n), n being head_dim unless V is projected
    """

    k: F32
    v: F32

    @classmethod
    def of(
        cls, k: NDArray[Any], v: NDArray[Any], *, shift: bool = True, project: F64 | None = None
    ) -> Keys:
        """Prepare K and V of shape ``(tokens, head_dim)``.

        Parameters
        ----------
        shift : bool
            Take the mean over tokens from K. It moves all scores of a query alike, which softmax
            does not see, and float32 keeps its digits where keys share a large offset.
        project : (head_dim, n) array, optional
            V is measured after this matrix.
        """
        wide = k.astype(np.float64)
        if shift and wide.size:
            wide -= wide.mean(axis=0)
        return cls(wide.astype(np.float32), _projected(v.astype(np.float64), project))


@dataclass(frozen=True, eq=False)
class Error:
    """Decoded K and V minus K and V, of some tokens; an exact side is None.

    Sides that are equal are told apart here, once, so that no product is ever asked to give the
    same result twice: BLAS promises that for no two columns, rows or calls.

    Attributes
    ----------
    k : (tokens, head_dim), float32, less `common`, or None
    common : (head_dim,), float64
        What the errors of all these keys share.
    v : (tokens, n), float32, or None
    """

    k: F32 | None
    common: F64
    v: F32 | None

    @classmethod
    def of(
        cls,
        k: NDArray[Any],
        k_decoded: NDArray[Any],
        v: NDArray[Any],
        v_decoded: NDArray[Any],
        *,
        sinks: int,
        shift: bool = True,
        project: F64 | None = None,
    ) -> tuple[Error, Error]:
        """The errors of the first `sinks` tokens, and those of the others.

        All arrays are ``(tokens, head_dim)``; `shift` and `project` as in :meth:`Keys.of`.
        """
        k_error = k_decoded.astype(np.float64) - k
        v_error = v_decoded.astype(np.float64) - v
        first, rest = (
            cls._of(k_error[part], v_error[part], shift, project)
            for part in (slice(0, sinks), slice(sinks, None))
        )
        return first, rest

    def of_keys(self, first: int, last: int) -> Error:
        """The error of keys `first` to `last` of these."""
        k, v = (None if side is None else side[first:last] for side in (self.k, self.v))
        return Error(k, self.common, v)

    @classmethod
    def _of(cls, k: F64, v: F64, shift: bool, project: F64 | None) -> Error:
        common = np.zeros(k.shape[1])
        moved = bool(k.any())
        if moved and shift:
            common = k.mean(axis=0)
            k = k - common
        return cls(
            k.astype(np.float32) if moved else None,
            common,
            _projected(v, project) if v.any() else None,
        )


def _projected(v: F64, project: F64 | None) -> F32:
    projected: F32 = (v if project is None else v @ project).astype(np.float32)
    return projected
