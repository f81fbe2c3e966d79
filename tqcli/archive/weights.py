"""The weighted space: what an error in a value of K or of V costs attention.

A unit of squared error in the weighted space costs the same share of a layer's attention output,
wherever it is. K is weighted by the mean power of the queries that meet it, pair by pair as RoPE
turns them; V by the Gram matrix of the output projection; both by what attention makes of an error
(:mod:`tqcli.metrics.sensitivity`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError

RIDGE = 0.01  # of the mean power: what no query of the calibration looked at is not free

F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Weights:
    """The weighting of one layer.

    Parameters
    ----------
    k : float64 array, shape (num_kv_heads, k_dim)
        Factors of the values of K.
    v : float64 array, shape (num_kv_heads, v_dim, v_dim)
        A head's values are multiplied by its matrix from the right.
    """

    k: F64
    v: F64

    def matrix(self) -> F64:
        """The matrix by which a layer's vector is multiplied from the right."""
        heads, k_dim = self.k.shape
        v_dim = self.v.shape[1]
        out = np.zeros((heads * (k_dim + v_dim),) * 2)
        out[np.diag_indices(heads * k_dim)] = self.k.ravel()
        for head in range(heads):
            at = heads * k_dim + head * v_dim
            out[at : at + v_dim, at : at + v_dim] = self.v[head]
        return out


def weights(power: F64, key: F64, value: F64, gram: NDArray[Any]) -> Weights:
    """Weights from what was measured of attention.

    Parameters
    ----------
    power : float64 array, shape (num_kv_heads, k_dim)
        Mean power of the queries that read each value of K, alike in the values of a RoPE pair.
    key, value : float64 array, shape (num_kv_heads,)
        Share of the attention output that a unit of squared error costs, from
        :class:`tqcli.metrics.sensitivity.Sensitivity`.
    gram : array, shape (num_kv_heads, v_dim, v_dim)
        Of the output projection, summed over the query heads of a group.

    Raises
    ------
    InputError
        If nothing was seen of a layer.
    """
    dim = gram.shape[-1]
    total = power + RIDGE * power.mean(axis=1, keepdims=True)
    metric = np.asarray(gram, np.float64)
    ridge = RIDGE * np.trace(metric, axis1=1, axis2=2) / dim
    metric = (metric + metric.transpose(0, 2, 1)) / 2 + ridge[:, None, None] * np.eye(dim)
    key, value = (np.maximum(share, RIDGE * share.mean()) for share in (key, value))
    if not (total.min() > 0 and key.min() > 0 and value.min() > 0 and ridge.min() > 0):
        raise InputError("weights: queries, attention or an output projection that is all zero")
    factor: F64 = np.linalg.cholesky(value[:, None, None] * metric)
    return Weights(np.sqrt(total * key[:, None]), factor)


def plain(k_scale: F64, v_scale: F64, k_dim: int, v_dim: int) -> Weights:
    """Without queries: each head by the reciprocal of its own scale, ``(num_kv_heads,)``."""
    k = np.repeat(1 / k_scale[:, None], k_dim, axis=1)
    return Weights(k, np.eye(v_dim) / v_scale[:, None, None])
