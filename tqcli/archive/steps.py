"""Values of K and V as steps, and back: means, steps of K, the mixing of V's values in a head.

Back from integers, a float64 product and a float64 sum round every value of K, and every value of V
(whose sums over a head are of integers, exact in float64), so both are the same on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.archive.code import FRACTION, Layer
from tqcli.errors import InputError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


def values(layer: Layer, x: I32) -> tuple[F32, F32]:
    """K before RoPE and V of a layer's decoded vectors.

    Parameters
    ----------
    layer : Layer
    x : int32 array, shape (values, tokens)
        In units of 2^-14 steps.

    Returns
    -------
    k : float32 array, shape (num_kv_heads, tokens, k_dim)
    v : float32 array, shape (num_kv_heads, tokens, v_dim)
    """
    tokens = x.shape[1]
    of_k = layer.k_mean.size
    unit = layer.k_step.astype(np.float64)[:, :, None] * 2.0**-FRACTION
    k = x[:of_k].reshape(*layer.k_mean.shape, tokens) * unit
    k += layer.k_mean[:, :, None]
    sums = x[of_k:].reshape(*layer.v_mean.shape, tokens).astype(np.float64)
    v = sums.transpose(0, 2, 1) @ layer.v_step.astype(np.float64)
    v *= 2.0 ** -(layer.v_exponent.astype(np.float64) + FRACTION)[:, None, None]
    v += layer.v_mean[:, None, :]
    return k.astype(np.float32).transpose(0, 2, 1), v.astype(np.float32)


class LayerSteps:
    """The way from values to steps, for one layer.

    Parameters
    ----------
    layer : Layer

    Raises
    ------
    InputError
        If the mixing of V cannot be undone.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        scale = 2.0 ** layer.v_exponent.astype(np.float64)
        try:
            inverse = np.linalg.inv(layer.v_step.astype(np.float64)) * scale[:, None, None]
        except np.linalg.LinAlgError as error:
            raise InputError("archive code: v.step has no inverse; derive it anew") from error
        self._v: F64 = inverse

    def __call__(self, k: NDArray[Any], v: NDArray[Any]) -> F32:
        """The vectors of some tokens in steps.

        Parameters
        ----------
        k : array, shape (num_kv_heads, tokens, k_dim)
            K before RoPE.
        v : array, shape (num_kv_heads, tokens, v_dim)

        Returns
        -------
        float32 array, shape (values, tokens)
        """
        layer, tokens = self.layer, k.shape[1]
        out = np.empty((layer.width, tokens), np.float32)
        of_k = layer.k_mean.size
        centred = k - layer.k_mean[:, None, :]
        centred /= layer.k_step[:, None, :]
        out[:of_k] = centred.transpose(0, 2, 1).reshape(of_k, tokens)
        mixed = (v - layer.v_mean[:, None, :]).astype(np.float64) @ self._v
        out[of_k:] = mixed.transpose(0, 2, 1).reshape(-1, tokens)
        return out
