"""The side data of the archive code: all that a decoder must have beside the chunks.

It is derived once for a model and a step (:mod:`tqcli.archive.derive`), and every archive made with
it needs the very same numbers. Everything from symbols to *steps* is integer arithmetic::

    x   = basis @ symbols + (predictor @ before, row r shifted right by shifts[r])

with ``symbols`` the integers of a group's components, ``before`` what the one or two groups before
decoded to, in quarters of a step (all zero for a token where the sum might not fit 32 bits), and
``x`` the group in units of 2^-14 steps. A step then is worth
``k_step`` in a value of K, and a row of ``v_step`` in the values of a head of V.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError, input_error

FRACTION = 14  # x counts 2^-14 steps; so do the entries of a basis
CARRIED = 2  # before counts 2^-2 steps
V_BITS = (
    17  # of the integers of v_step: with 2^26 for x, sums of 2^10 products are exact in float64
)
MAX_BACK = 2
MAX_GROUP = 3

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
I16 = NDArray[np.int16]
I32 = NDArray[np.int32]
U8 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Layer:
    """How K and V of one layer lie in steps.

    A layer's vector has its K first, head after head, then its V.

    Parameters
    ----------
    k_mean : float32 array, shape (num_kv_heads, k_dim)
        Of K before RoPE.
    k_step : float32 array, shape (num_kv_heads, k_dim)
        What a step is in each value of K; above 0.
    v_mean : float32 array, shape (num_kv_heads, v_dim)
    v_step : int32 array, shape (num_kv_heads, v_dim, v_dim)
        What a step in value i of a head is in its values j, times ``2^-v_exponent``; at most 2^17.
    v_exponent : int8 array, shape (num_kv_heads,)
    """

    k_mean: F32
    k_step: F32
    v_mean: F32
    v_step: I32
    v_exponent: I8

    @property
    def heads(self) -> int:
        """KV heads."""
        heads, _ = self.k_mean.shape
        return int(heads)

    @property
    def width(self) -> int:
        """Values of a token: K and V of all heads."""
        return self.k_mean.size + self.v_mean.size


def layer_of(k_mean: F64, v_mean: F64, k_weight: F64, v_weight: F64, step: float) -> Layer:
    """A layer in the numbers that are stored, from means and weights.

    Parameters
    ----------
    k_mean, v_mean : float64 arrays, shape (num_kv_heads, dim)
    k_weight : float64 array, shape (num_kv_heads, k_dim)
    v_weight : float64 array, shape (num_kv_heads, v_dim, v_dim)
        As in :class:`tqcli.archive.weights.Weights`.
    step : float
        In the weighted space.
    """
    v_step = np.linalg.inv(v_weight) * step
    exponent = V_BITS - np.ceil(np.log2(np.abs(v_step).max(axis=(1, 2))))
    return Layer(
        k_mean.astype(np.float32),
        (step / k_weight).astype(np.float32),
        v_mean.astype(np.float32),
        np.rint(v_step * 2.0 ** exponent[:, None, None]).astype(np.int32),
        exponent.astype(np.int8),
    )


@dataclass(frozen=True, eq=False)
class Group:
    """Layers that are coded together.

    Parameters
    ----------
    width : int
        Values of a token, and components.
    basis : int16 array, shape (values, components), or None
        Columns in units of 2^-14, near orthonormal; None: the identity.
    predictor : int16 array, shape (values, values of the groups before), or None
    shifts : int8 array, shape (values,), or None
        Of the rows of the predictor.
    expected : uint8 array, shape (components,)
        The table that each component is expected to take (:mod:`tqcli.archive.tables`).
    """

    width: int
    basis: I16 | None
    predictor: I16 | None
    shifts: I8 | None
    expected: U8

    @cached_property
    def limit(self) -> int:
        """The sum of magnitudes up to which a token's prediction stays below 2^30."""
        if self.predictor is None or self.shifts is None:
            return 0
        largest = np.abs(self.predictor.astype(np.int64)).max(axis=1)
        largest <<= np.maximum(-self.shifts.astype(np.int64), 0)
        return (1 << 30) // max(int(largest.max()), 1)


@dataclass(frozen=True, eq=False)
class Code:
    """Side data for all layers of a model.

    Parameters
    ----------
    step : float
        The step in the weighted space; a record, the numbers below are in steps.
    group : int
        Layers coded together, 1 to 3; the last group may be smaller.
    back : int
        Groups before that a prediction is made from, 0 to 2.
    layers : sequence of Layer
    groups : sequence of Group
    """

    step: float
    group: int
    back: int
    layers: Sequence[Layer]
    groups: Sequence[Group]

    @property
    def components(self) -> int:
        """Of one token; as many as values."""
        return sum(group.width for group in self.groups)

    @property
    def expected(self) -> U8:
        """The expected table of every component."""
        return np.concatenate([group.expected for group in self.groups])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.tensors().values())

    def layers_of(self, group: int) -> range:
        """Positions of the layers of a group."""
        return range(group * self.group, min((group + 1) * self.group, len(self.layers)))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The arrays by the names that they have in a file."""
        out: dict[str, NDArray[Any]] = {}
        for i, layer in enumerate(self.layers):
            for name in _LAYER:
                out[f"layers.{i}.{name}"] = getattr(layer, name.replace(".", "_"))
        for i, group in enumerate(self.groups):
            for name in _GROUP:
                array = getattr(group, name)
                if array is not None:
                    out[f"groups.{i}.{name}"] = array
        return out

    def record(self) -> dict[str, Any]:
        """What stands in the metadata beside the tensors."""
        return {
            "step": self.step,
            "group": self.group,
            "back": self.back,
            "layers": len(self.layers),
        }

    @classmethod
    def from_tensors(cls, record: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Code:
        """Inverse of :meth:`tensors` and :meth:`record`; everything is checked.

        Raises
        ------
        InputError
            A number or an array is missing, or not what it must be.
        """
        step, group, back, count = (record.get(n) for n in ("step", "group", "back", "layers"))
        if (
            not isinstance(step, float)
            or not 0 < step < np.inf
            or type(group) is not int
            or group not in range(1, MAX_GROUP + 1)
            or type(back) is not int
            or back not in range(MAX_BACK + 1)
            or type(count) is not int
            or not 0 < count <= len(tensors)
        ):
            raise InputError(f"archive code: step, group, back, layers {step, group, back, count}")
        layers = [_layer(i, tensors) for i in range(count)]
        groups: list[Group] = []
        for first in range(0, count, group):
            width = sum(layer.width for layer in layers[first : first + group])
            before = sum(g.width for g in groups[max(len(groups) - back, 0) :]) if back else 0
            groups.append(_group(len(groups), width, before, tensors))
        code = cls(step, group, back, layers, groups)
        if extra := set(tensors) - set(code.tensors()):
            raise InputError(f"archive code: unknown tensor {min(extra)!r}")
        return code


_LAYER = ("k.mean", "k.step", "v.mean", "v.step", "v.exponent")
_GROUP = ("basis", "predictor", "shifts", "expected")


def _take(
    tensors: Mapping[str, NDArray[Any]], name: str, dtype: Any, shape: tuple[int | None, ...]
) -> NDArray[Any]:
    array = tensors.get(name)
    legal = f"{np.dtype(dtype)} {tuple('any' if n is None else n for n in shape)}"
    if array is None:
        raise input_error(f"archive code: {name}", "missing", legal)
    fits = array.ndim == len(shape) and all(
        want in (None, n) for n, want in zip(array.shape, shape, strict=True)
    )
    if array.dtype != dtype or not fits or not array.size:
        raise input_error(f"archive code: {name}", f"{array.dtype} {array.shape}", legal)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise input_error(f"archive code: {name}", "NaN or Inf", "finite values")
    return array


def _layer(i: int, tensors: Mapping[str, NDArray[Any]]) -> Layer:
    k_mean = _take(tensors, f"layers.{i}.k.mean", np.float32, (None, None))
    heads = k_mean.shape[0]
    k_step = _take(tensors, f"layers.{i}.k.step", np.float32, k_mean.shape)
    v_mean = _take(tensors, f"layers.{i}.v.mean", np.float32, (heads, None))
    dim = v_mean.shape[1]
    v_step = _take(tensors, f"layers.{i}.v.step", np.int32, (heads, dim, dim))
    v_exponent = _take(tensors, f"layers.{i}.v.exponent", np.int8, (heads,))
    if (k_step <= 0).any() or np.abs(v_step.astype(np.int64)).max() > 1 << V_BITS:
        raise InputError(f"archive code: layers.{i}: a step of K at or below 0, or V beyond 2^17")
    return Layer(k_mean, k_step, v_mean, v_step, v_exponent)


def _group(i: int, width: int, before: int, tensors: Mapping[str, NDArray[Any]]) -> Group:
    basis = predictor = shifts = None
    if f"groups.{i}.basis" in tensors:
        basis = _take(tensors, f"groups.{i}.basis", np.int16, (width, width))
    if f"groups.{i}.predictor" in tensors:
        predictor = _take(tensors, f"groups.{i}.predictor", np.int16, (width, before))
        shifts = _take(tensors, f"groups.{i}.shifts", np.int8, (width,))
        if shifts.min() < -FRACTION or shifts.max() > 31:
            raise input_error(f"archive code: groups.{i}.shifts", "out of range", "-14 to 31")
    expected = _take(tensors, f"groups.{i}.expected", np.uint8, (width,))
    return Group(width, basis, predictor, shifts, expected)
