"""The signed Walsh-Hadamard rotation of the turbo formats.

``R = D2 H D1 / sqrt(g)`` over groups of ``g`` values: signs, butterflies, scale and signs again.
The signs are the first two draws of ``numpy.random.default_rng(seed).choice([-1., 1.], 128)``;
they are stored here as bits (1 is negative, bit i of the little-endian string is element i), so
that no future NumPy can change them.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Signs = Literal["main", "qjl"]

# Seeds 42 and 1042 of upstream's generator; first and second call.
_SIGN_BITS: dict[Signs, tuple[str, str]] = {
    "main": ("59036ae44959f842bb3bc6a4a950f249", "90eeac16dc8f623f7a35a5b76265a5be"),
    "qjl": ("5e563a69302d622507e64302da8bc5fe", "2423173dcb0730204ba3409526116b85"),
}
# float32 1/sqrt(g), as the C sources spell it.
SCALE: dict[int, np.float32] = {64: np.float32(0.125), 128: np.float32(0.08838834764831845)}


@cache
def signs(group: int, which: Signs = "main") -> tuple[F32, F32]:
    """Signs before and after the butterflies, each float32 of shape ``(group,)``.

    A group of 64 uses the first 64 of each.
    """
    pair = []
    for text in _SIGN_BITS[which]:
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), bitorder="little")
        sign = np.where(bits[:group] == 1, np.float32(-1), np.float32(1))
        sign.flags.writeable = False
        pair.append(sign)
    return pair[0], pair[1]


def hadamard_in_place(columns: F32) -> None:
    """Butterflies over axis 0, strides 1, 2, 4 ...: ``(a, b) -> (a + b, a - b)``, unscaled.

    Axis 0 (a power of two long) holds the elements of a vector and axis 1 the vectors, so that
    one NumPy operation serves all vectors and the order of additions within each is fixed.
    """
    size = columns.shape[0]
    stride = 1
    while stride < size:
        view = columns.reshape(size // (2 * stride), 2, stride, -1)
        low, high = view[:, 0].copy(), view[:, 1]
        view[:, 0] += high
        np.subtract(low, high, out=high)
        stride *= 2


def rotate_columns(columns: F32, which: Signs = "main") -> F32:
    """Rotate vectors that stand in the columns of ``(group, n)``; a new array."""
    group = columns.shape[0]
    before, after = signs(group, which)
    out = columns * before[:, None]
    hadamard_in_place(out)
    out *= (SCALE[group] * after)[:, None]
    return out


def unrotate_columns(columns: F32, which: Signs = "main") -> F32:
    """Inverse of :func:`rotate_columns`."""
    group = columns.shape[0]
    before, after = signs(group, which)
    out = columns * after[:, None]
    hadamard_in_place(out)
    out *= (SCALE[group] * before)[:, None]
    return out


def rotate(x: F32, group: int = 128, which: Signs = "main") -> F32:
    """Rotate the last axis in groups.

    Parameters
    ----------
    x : float32 array, shape (..., n)
        ``n`` is a multiple of ``group``.
    group : {64, 128}
    which : {"main", "qjl"}
        Which pair of sign vectors.

    Examples
    --------
    >>> import numpy as np
    >>> e0 = np.zeros((1, 64), np.float32); e0[0, 0] = 1
    >>> bool(np.all(np.abs(rotate(e0, 64)) == 0.125))
    True
    """
    flat = np.ascontiguousarray(x, np.float32).reshape(-1, group)
    return np.ascontiguousarray(rotate_columns(flat.T, which).T).reshape(x.shape)


def unrotate(x: F32, group: int = 128, which: Signs = "main") -> F32:
    """Undo :func:`rotate`; the same shapes."""
    flat = np.ascontiguousarray(x, np.float32).reshape(-1, group)
    return np.ascontiguousarray(unrotate_columns(flat.T, which).T).reshape(x.shape)


def hadamard(x: F32, size: int) -> F32:
    """Sylvester Hadamard transform without signs, scaled by ``1/sqrt(size)``; its own inverse.

    Parameters
    ----------
    x : float32 array, shape (..., n)
        ``n`` is a multiple of `size`, a power of two.
    """
    columns = np.ascontiguousarray(x.reshape(-1, size).T)
    hadamard_in_place(columns)
    columns *= np.float32(1 / np.sqrt(size))
    return np.ascontiguousarray(columns.T).reshape(x.shape)
