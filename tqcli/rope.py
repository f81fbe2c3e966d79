"""Rotary position embedding: what a model did to K, and the way back and forth again.

Calibration works on K before RoPE, caches hold K after it. Everything here is NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError

F32 = NDArray[np.float32]
Pairs = Literal["half", "interleaved"]

NO_ROPE = "none"  # the layer's K carries no rotary embedding
UNKNOWN_ROPE = "unknown"  # it may carry one, but no known rule reproduces it


@dataclass(frozen=True)
class Rope:
    """The rotary embedding of one layer, complete enough to undo it.

    Parameters
    ----------
    kind : str
        ``default``, ``linear``, ``llama3``, ``yarn`` ... as the model's config names it; ``none``
        for a layer without, ``unknown`` where no known rule reproduces the model's K.
    inv_freq : tuple of float
        Radians per token of each pair *after* scaling; float32 values, ``rotary_dims / 2`` of them.
    pairs : {"half", "interleaved"}
        Which values turn together: ``(i, i + rotary_dims/2)`` or ``(2i, 2i + 1)``.
    magnitude : float
        Factor on cosine and sine (YaRN and LongRoPE stretch K by it).
    theta : float or None
        Base of the frequencies, as the config gives it; a record, not used in arithmetic.
    scaling : mapping
        The config's other scaling parameters; a record, not used in arithmetic.
    """

    kind: str
    inv_freq: tuple[float, ...] = ()
    pairs: Pairs = "half"
    magnitude: float = 1.0
    theta: float | None = None
    scaling: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rotary_dims(self) -> int:
        """How many leading values of each head are rotated; the rest pass through."""
        return 2 * len(self.inv_freq)

    def columns(self) -> tuple[slice, slice]:
        """Where the first and the second values of all pairs stand in a head."""
        dims = self.rotary_dims
        if self.pairs == "half":
            return slice(0, dims // 2), slice(dims // 2, dims)
        return slice(0, dims, 2), slice(1, dims, 2)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, ``rotary_dims`` spelled out for other readers."""
        return {
            **asdict(self),
            "inv_freq": list(self.inv_freq),
            "scaling": dict(self.scaling),
            "rotary_dims": self.rotary_dims,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rope:
        """Inverse of :meth:`to_json`.

        Raises
        ------
        InputError
            A field is missing or of the wrong kind.
        """
        try:
            inv_freq = tuple(float(f) for f in data["inv_freq"])
            rope = cls(
                kind=str(data["kind"]),
                inv_freq=inv_freq,
                pairs=data["pairs"],
                magnitude=float(data["magnitude"]),
                theta=None if data.get("theta") is None else float(data["theta"]),
                scaling=dict(data.get("scaling", {})),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"rope: {error!r}; legal is the object that tq dump writes") from error
        if rope.pairs not in ("half", "interleaved"):
            raise InputError(f"rope: pairs {rope.pairs!r}; legal are 'half' and 'interleaved'")
        if not np.isfinite([*inv_freq, rope.magnitude]).all() or rope.magnitude == 0:
            raise InputError("rope: inv_freq or magnitude is not finite, or magnitude is zero")
        return rope


def rope_of(entry: Any, layer: int) -> Rope:
    """The rotary embedding of one layer from a dump's provenance (its ``rope`` entry).

    Parameters
    ----------
    entry : mapping or list of mappings
        One rule for all layers, or rules with the ``layers`` they hold for.
    layer : int

    Raises
    ------
    InputError
        There is no rule for that layer.
    """
    if isinstance(entry, Mapping):
        return Rope.from_json(entry)
    for rule in entry if isinstance(entry, list) else ():
        if isinstance(rule, Mapping) and layer in rule.get("layers", ()):
            return Rope.from_json(rule)
    raise InputError(f"rope: nothing about layer {layer}; the dump does not say what RoPE did")


def apply_rope(k: NDArray[Any], positions: NDArray[Any], rope: Rope) -> F32:
    """Rotate K (or Q) as the model does before it enters the cache.

    Parameters
    ----------
    k : array, shape (..., seq_len, head_dim)
        K before RoPE; any float dtype.
    positions : int array, shape (seq_len,)
        Position of each token in its sequence, in tokens.
    rope : Rope

    Returns
    -------
    float32 array of the shape of ``k``

    Raises
    ------
    InputError
        ``rope.kind`` is unknown, or the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> quarter = Rope("default", inv_freq=(float(np.pi / 2),))
    >>> apply_rope(np.array([[1.0, 0.0]]), np.array([1]), quarter).round(3)
    array([[-0.,  1.]], dtype=float32)
    """
    return _turn(k, positions, rope, inverse=False)


def remove_rope(k: NDArray[Any], positions: NDArray[Any], rope: Rope) -> F32:
    """Undo :func:`apply_rope`; the same shapes. The round trip holds within 1e-6 of K's length."""
    return _turn(k, positions, rope, inverse=True)


def _turn(k: NDArray[Any], positions: NDArray[Any], rope: Rope, *, inverse: bool) -> F32:
    if rope.kind == UNKNOWN_ROPE:
        raise InputError("rope: kind is 'unknown'; K before RoPE cannot be had from this dump")
    out = np.array(k, dtype=np.float32)
    if rope.kind == NO_ROPE:
        return out
    dims = rope.rotary_dims
    if out.ndim < 2 or out.shape[-2] != len(positions) or out.shape[-1] < dims:
        raise InputError(
            f"rope: K of shape {out.shape} with {len(positions)} positions and {dims} rotary dims;"
            " legal is (..., seq_len, head_dim) with one position a token"
        )
    cos, sin = _cos_sin(positions, rope)
    if inverse:  # the inverse of m * rotation(a) is rotation(-a) / m
        cos, sin = cos / rope.magnitude**2, -sin / rope.magnitude**2
    first, second = rope.columns()
    a, b = out[..., first].astype(np.float64), out[..., second].astype(np.float64)
    out[..., first] = a * cos - b * sin
    out[..., second] = b * cos + a * sin
    return out


def _cos_sin(
    positions: NDArray[Any], rope: Rope
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosine and sine times the magnitude, float64 of shape ``(seq_len, rotary_dims / 2)``.

    The angle is rounded to float32 as models round it: at position 8,192 an exact angle would be
    off by up to 5e-4 from the one that the model used.
    """
    angle = np.asarray(positions, np.float32)[:, None] * np.asarray(rope.inv_freq, np.float32)
    cos, sin = cos_sin(angle.astype(np.float64))
    return cos * rope.magnitude, sin * rope.magnitude


def cos_sin_table(positions: NDArray[Any], rope: Rope) -> tuple[F32, F32]:
    """Cosine and sine times the magnitude, each float32 of shape ``(seq_len, rotary_dims / 2)``.

    What is taken from keys when they are written must be added back bit for bit when they are
    read, on whatever machine that is: the tables are the same everywhere (:func:`cos_sin`).
    """
    cos = np.empty((len(positions), rope.rotary_dims // 2), np.float32)
    sin = np.empty_like(cos)
    for start in range(0, len(positions), _ROWS):
        some = slice(start, start + _ROWS)
        cos[some], sin[some] = _cos_sin(positions[some], rope)
    return cos, sin


_ROWS = 256  # tokens of a table made at a time: its temporaries stay in the cache


# pi/2 in three parts; a multiple below 2^29 of either of the first two is exact.
_HALF_PI = (1.570796251296997, 7.549789415861596e-08, 5.390302858158119e-15)
# 1/n!, with signs: the Taylor series reach 1e-16 on [-pi/4, pi/4] with these terms.
_SIN = tuple((-1) ** (n // 2) / math.factorial(n) for n in range(1, 18, 2))
_COS = tuple((-1) ** (n // 2) / math.factorial(n) for n in range(0, 17, 2))


def cos_sin(angle: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosine and sine of angles in radians, equal on every machine.

    Libraries round them differently from one processor to the next. Here only additions and
    multiplications of float64 are used, in a fixed order; the error stays below 1e-15 up to
    5e8 radians.
    """
    quarter = np.rint(angle * (2 / math.pi))
    rest = ((angle - quarter * _HALF_PI[0]) - quarter * _HALF_PI[1]) - quarter * _HALF_PI[2]
    square = rest * rest
    sin, cos = _series(square, _SIN) * rest, _series(square, _COS)
    turns = quarter.astype(np.int64) & 3
    odd = (turns & 1).astype(bool)
    sin, cos = np.where(odd, cos, sin), np.where(odd, sin, cos)
    return np.where((turns == 1) | (turns == 2), -cos, cos), np.where(turns >= 2, -sin, sin)


def _series(x: NDArray[np.float64], terms: tuple[float, ...]) -> NDArray[np.float64]:
    total = np.full_like(x, terms[-1])
    for term in reversed(terms[:-1]):
        total *= x
        total += term
    return total
