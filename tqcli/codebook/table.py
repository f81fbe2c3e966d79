"""A scalar codebook: centroids, decision boundaries, and the checks that make them one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.words import counted

MAX_BITS = 8
# A value of a rotated unit vector reaches 11.3 standard deviations in a group of 128.
MAX_DEVIATIONS = 1e4


@dataclass(frozen=True)
class Codebook:
    """Levels for the values of a rotated vector.

    Parameters
    ----------
    id : str
        Name in reports and files.
    bits : int
        1 to 8; there are ``2**bits`` levels.
    dim : int
        The unit: values of a *unit vector* of this many values. ``dim=1`` is unit variance
        (N(0, 1)); a table in units of ``dim`` serves groups of ``g`` after scaling by
        ``sqrt(dim / g)``.
    centroids : tuple of float, length 2**bits, ascending
    boundaries : tuple of float, length 2**bits - 1, ascending
        A value equal to a boundary belongs to the upper level. Kept as given, since ties depend
        on them: upstream prints six decimals, fitted tables hold exact means of neighbours.
    provenance : mapping
        Where the numbers come from; JSON values only; no part of the identity.

    Raises
    ------
    InputError
        If the numbers do not form a codebook.

    Examples
    --------
    >>> one_bit = Codebook("example", 1, 1, (-0.8, 0.8), (0.0,))
    >>> one_bit.for_group(64)[0].tolist() == [np.float32(-0.1), np.float32(0.1)]
    True
    """

    id: str
    bits: int
    dim: int
    centroids: tuple[float, ...]
    boundaries: tuple[float, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Refuse anything that is no codebook, naming what is wrong."""
        where = f"codebook {self.id}"
        if not 1 <= self.bits <= MAX_BITS:
            raise InputError(f"{where}: {self.bits} bits; 1 to {MAX_BITS} are legal")
        if self.dim < 1:
            raise InputError(f"{where}: dim {self.dim}; it must be 1 or more")
        _check_ascending(where, "centroids", self.centroids, 2**self.bits)
        _check_ascending(where, "boundaries", self.boundaries, 2**self.bits - 1)
        largest = max(abs(self.centroids[0]), abs(self.centroids[-1])) * self.dim**0.5
        if largest > MAX_DEVIATIONS:
            raise InputError(
                f"{where}: a centroid lies {largest:.3g} standard deviations out, at most "
                f"{MAX_DEVIATIONS:.0f} are legal; dim {self.dim} may be wrong"
            )
        for low, boundary, high in zip(
            self.centroids, self.boundaries, self.centroids[1:], strict=False
        ):
            if not low < boundary < high:
                raise InputError(
                    f"{where}: boundary {boundary} does not lie between its centroids "
                    f"{low} and {high}; sort and repair the table"
                )
        self.for_group(self.dim)  # distinct in float32 too

    def __repr__(self) -> str:
        """``<codebook turbo-3bit: 3 bits, unit vectors of 128>``."""
        unit = f"unit vectors of {self.dim}" if self.dim > 1 else "unit variance"
        return f"<codebook {self.id}: {counted(self.bits, 'bit')}, {unit}>"

    @property
    def sha256(self) -> str:
        """Hash of what the codebook *is* (bits, unit, levels, boundaries), not of its name."""
        return hashlib.sha256(json.dumps(self.table(), sort_keys=True).encode()).hexdigest()

    def table(self) -> dict[str, Any]:
        """The numbers as JSON values."""
        return {
            "bits": self.bits,
            "dim": self.dim,
            "centroids": list(self.centroids),
            "boundaries": list(self.boundaries),
        }

    def for_group(self, group: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Centroids and boundaries as float32, in units of a unit vector of `group` values."""
        scale = (self.dim / group) ** 0.5  # exactly 1.0 when the units agree
        levels = (np.asarray(self.centroids, np.float64) * scale).astype(np.float32)
        edges = (np.asarray(self.boundaries, np.float64) * scale).astype(np.float32)
        # float32 is what codecs use: neighbours that merge there would be one level.
        if not (np.diff(levels) > 0).all() or not (np.diff(edges) > 0).all():
            raise InputError(
                f"codebook {self.id}: levels or boundaries are not distinct in float32; spread them"
            )
        return levels, edges


def midpoints(centroids: Sequence[float]) -> tuple[float, ...]:
    """Means of neighbours: the nearest-level boundaries."""
    return tuple((a + b) / 2 for a, b in pairwise(centroids))


def _check_ascending(where: str, what: str, values: Sequence[float], count: int) -> None:
    if len(values) != count:
        raise InputError(f"{where}: {len(values)} {what}; this many bits need {count}")
    if not np.isfinite(values).all():
        raise InputError(f"{where}: {what} hold a NaN or an infinity; all must be finite")
    for at, (a, b) in enumerate(pairwise(values)):
        if not a < b:
            kind = "twice the same value" if a == b else "out of order"
            raise InputError(f"{where}: {what}[{at}:{at + 2}] = {a}, {b}: {kind}; they must ascend")
