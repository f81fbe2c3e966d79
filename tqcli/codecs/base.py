"""What a codec is: an id, a block layout, encode and decode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqcli.errors import InputError, UsageError
from tqcli.words import counted

Domain = Literal["original", "rotated"]
Blocks = NDArray[np.uint8]
Floats = NDArray[Any]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (np.dtype(np.float32), np.dtype(np.float16), BFLOAT16)


class VectorError(InputError):
    """One vector cannot be encoded or decoded.

    Attributes
    ----------
    vector : int
        Flat index over the leading axes of the array.
    dim : int or None
        Element within the vector, when one is to blame.
    what : str
        What came, what is legal and what to do.
    """

    def __init__(self, vector: int, dim: int | None, what: str) -> None:
        self.vector, self.dim, self.what = vector, dim, what
        place = f"vector {vector}" + ("" if dim is None else f" dim {dim}")
        super().__init__(f"{place}: {what}")


class Codec(ABC):
    """Floats of one vector <-> the exact bytes that an engine stores.

    A *vector* is one head of one token: the last axis. Each is stored by itself as
    ``blocks_per_vector`` blocks of ``block_bytes``; a vector that does not fill its last group is
    padded with zeros, and the padding counts in :meth:`bits_per_value`. One id is one byte layout
    for ever.

    Attributes
    ----------
    id : str
        Name in the registry, on the command line and in files.
    values_per_block : int
    block_bytes : int
    """

    id: str
    values_per_block: int
    block_bytes: int
    takes_weights = False  # whether codes can be chosen by a weighted error

    def __repr__(self) -> str:
        """``<codec turbo3: 50 bytes for 128 values>``."""
        sizes = counted(self.block_bytes, "byte"), counted(self.values_per_block, "value")
        return f"<codec {self.id}: {' for '.join(sizes)}>"

    @property
    def alignment(self) -> int:
        """A vector is padded to a multiple of this many values."""
        return self.values_per_block

    def padded_dim(self, head_dim: int) -> int:
        """Values stored for a vector of `head_dim`.

        Raises
        ------
        InputError
            If the format does not know how to hold such a vector.
        """
        if head_dim < 1:
            raise InputError(f"{self.id}: head_dim {head_dim}; it must be 1 or more")
        return -(-head_dim // self.alignment) * self.alignment

    def blocks_shape(self, head_dim: int) -> tuple[int, int]:
        """``(blocks_per_vector, block_bytes)`` of a vector of `head_dim`."""
        return self.padded_dim(head_dim) // self.values_per_block, self.block_bytes

    def bits_per_value(self, head_dim: int) -> float:
        """Stored bits for each of the `head_dim` values, norms and padding included."""
        blocks, size = self.blocks_shape(head_dim)
        return 8 * blocks * size / head_dim

    def config(self) -> dict[str, Any]:
        """JSON description from which :func:`tqcli.codecs.from_config` makes an equal codec."""
        return {"id": self.id}

    def encode(self, x: Floats, *, weights: Floats | None = None) -> Blocks:
        """Encode vectors.

        Parameters
        ----------
        x : float32, float16 or bfloat16 array, shape (..., head_dim)
        weights : float array, shape (head_dim,), optional
            What a squared error costs in each value: for K, the mean power of the queries in the
            pair of values that RoPE turns. The bytes decode as any others.

        Returns
        -------
        uint8 array, shape (..., blocks_per_vector, block_bytes)

        Raises
        ------
        VectorError
            On NaN or infinity, or a scale that fp16 cannot hold.
        InputError
            On another dtype or a head_dim the format cannot hold, and on weights that are not
            finite, negative, or not one a value.
        UsageError
            If the format takes no weights.
        """
        if x.dtype not in FLOATS:
            raise InputError(
                f"{self.id}: array of {x.dtype}; float32, float16 and bfloat16 are encoded"
            )
        if x.ndim == 0:
            raise InputError(f"{self.id}: a scalar; give vectors on the last axis")
        head_dim = x.shape[-1]
        shape = self.blocks_shape(head_dim)
        if weights is not None and not self.takes_weights:
            raise UsageError(f"{self.id}: takes no weights; turbo and trellis types do")
        if not x.size:
            return np.empty((*x.shape[:-1], *shape), np.uint8)
        flat = np.ascontiguousarray(x).reshape(-1, head_dim)
        padded = self.padded_dim(head_dim)
        if padded != head_dim:
            wide = np.zeros((flat.shape[0], padded), flat.dtype)
            wide[:, :head_dim] = flat
            flat = wide
        if weights is None:
            blocks = self._encode(flat)
        else:
            blocks = self._encode_weighted(flat, padded_weights(weights, head_dim, padded))
        return blocks.reshape(*x.shape[:-1], *shape)

    def decode(
        self,
        blocks: Blocks,
        head_dim: int | None = None,
        *,
        domain: Domain = "original",
        dtype: DTypeLike = np.float32,
    ) -> Floats:
        """Decode blocks.

        Parameters
        ----------
        blocks : uint8 array, shape (..., blocks_per_vector, block_bytes)
        head_dim : int, optional
            Drop the padding; without it all stored values come back.
        domain : {"original", "rotated"}
            "rotated" stops before the inverse rotation: what attention kernels read. It is always
            padded, since the rotation mixes the padding in.
        dtype : float32, float16 or bfloat16
            The latter two are the float32 result rounded to nearest even.

        Returns
        -------
        array of `dtype`, shape (..., head_dim)
        """
        out = np.dtype(dtype)
        if out not in FLOATS:
            raise UsageError(f"decode to {out}; float32, float16 and bfloat16 are legal")
        if domain not in get_args(Domain):
            raise UsageError(f"domain {domain!r}; original and rotated are legal")
        flat, stored = self._flat(blocks)
        if head_dim is not None and self.padded_dim(head_dim) != stored:
            raise InputError(
                f"{self.id}: {blocks.shape[-2]} blocks hold {stored} values; a vector of "
                f"{head_dim} takes {self.padded_dim(head_dim)}"
            )
        values = np.empty((0, stored), out)
        if flat.size:
            values = self._decode(flat, domain == "rotated", out)
        values = values.reshape(*blocks.shape[:-2], stored)
        if head_dim is None or domain == "rotated":
            return values
        return values[..., :head_dim]

    def codes(self, blocks: Blocks) -> NDArray[np.uint8]:
        """Quantization levels, uint8 of shape ``(..., padded head_dim)``.

        Raises
        ------
        UsageError
            If the format has no codebook.
        """
        raise UsageError(f"{self.id}: has no codebook codes; the turbo types have")

    def vanished(self, x: Floats, blocks: Blocks) -> int:
        """How many vectors of `x` were too short for the stored norm, and so decode to zero.

        Parameters
        ----------
        x : float array, shape (..., head_dim)
        blocks : uint8 array, shape (..., blocks_per_vector, block_bytes)
            What `x` was encoded to.

        Returns
        -------
        int
            Vectors with a group that is not zero and whose stored norm is.
        """
        flat, stored = self._flat(blocks)
        lengths = self._lengths(flat) if flat.size else None
        if lengths is None or (lengths != 0).all():
            return 0
        rows = (lengths == 0).any(axis=1)
        wide = np.zeros((int(rows.sum()), stored), x.dtype)
        wide[:, : x.shape[-1]] = x.reshape(-1, x.shape[-1])[rows]
        alive = wide.reshape(wide.shape[0], lengths.shape[1], -1).any(axis=2)
        return int((alive & (lengths[rows] == 0)).any(axis=1).sum())

    def _lengths(self, flat: Blocks) -> NDArray[np.float16] | None:
        """Stored norms of ``(n, bytes)``, shape (n, groups); None if the format has none."""
        return None

    def _flat(self, blocks: Blocks) -> tuple[Blocks, int]:
        """Blocks as ``(n, bytes of a vector)``, and the number of values that a vector stores."""
        if blocks.dtype != np.uint8 or blocks.ndim < 2 or blocks.shape[-1] != self.block_bytes:
            raise InputError(
                f"{self.id}: {blocks.dtype} array of shape {blocks.shape}; blocks are uint8 of "
                f"shape (..., blocks_per_vector, {self.block_bytes})"
            )
        stored = blocks.shape[-2] * self.values_per_block
        if stored % self.alignment:
            raise InputError(
                f"{self.id}: {blocks.shape[-2]} blocks a vector; a multiple of "
                f"{self.alignment // self.values_per_block} is legal"
            )
        width = blocks.shape[-2] * self.block_bytes
        return np.ascontiguousarray(blocks).reshape(-1, width), stored

    @abstractmethod
    def _encode(self, flat: Floats) -> Blocks:
        """Encode ``(n, padded)`` to ``(n, bytes)``."""

    def _encode_weighted(self, flat: Floats, weights: NDArray[np.float64]) -> Blocks:
        """Encode ``(n, padded)`` to ``(n, bytes)`` by the error under `weights` ``(padded,)``."""
        raise NotImplementedError  # where `takes_weights` is False

    @abstractmethod
    def _decode(self, flat: Blocks, rotated: bool, dtype: np.dtype[Any]) -> Floats:
        """Decode ``(n, bytes)`` to ``(n, padded)``."""


def padded_weights(weights: object, head_dim: int, padded: int) -> NDArray[np.float64]:
    """Weights of a padded vector; what is dropped when decoding weighs nothing.

    Raises
    ------
    InputError
        If `weights` is no float array of shape ``(head_dim,)``.
    """
    if not isinstance(weights, np.ndarray) or weights.dtype.kind != "f":
        came = getattr(weights, "dtype", type(weights).__name__)
        raise InputError(f"weights: {came}; a float array is legal")
    if weights.shape != (head_dim,):
        raise InputError(f"weights: shape {weights.shape}; one for each value, ({head_dim},)")
    wide = np.zeros(padded)
    wide[:head_dim] = weights
    return wide


def all_finite(x: Floats) -> bool:
    """Whether a float array holds no NaN or infinity.

    The same as ``np.isfinite(x).all()``, several times faster for the 16-bit types: as integers,
    infinities and NaNs are the largest of either sign.
    """
    if not x.size:
        return True
    if x.dtype.itemsize != 2:
        return bool(np.isfinite(x).all())
    infinities = np.array([np.inf, -np.inf], x.dtype)
    positive = x.view(np.int16).max() >= infinities.view(np.int16)[0]
    negative = x.view(np.uint16).max() >= infinities.view(np.uint16)[1]
    return not (positive or negative)


def first_nonfinite(flat: Floats) -> tuple[int, int] | None:
    """Row and column of the first NaN or infinity of a 2-d array."""
    if all_finite(flat):
        return None
    finite = np.isfinite(flat)
    row, column = np.unravel_index(int(np.argmin(finite)), flat.shape)
    return int(row), int(column)


def nonfinite_error(flat: Floats, place: tuple[int, int]) -> VectorError:
    """The error for a NaN or infinity at `place`, with the number of them in `flat`."""
    bad = int(np.count_nonzero(~np.isfinite(flat)))
    return VectorError(*place, f"{flat[place]} (one of {bad} NaN or Inf); values must be finite")


def require_finite(flat: Floats) -> None:
    """Raise :class:`VectorError` at the first NaN or infinity of ``(n, head_dim)``."""
    if (place := first_nonfinite(flat)) is not None:
        raise nonfinite_error(flat, place)
