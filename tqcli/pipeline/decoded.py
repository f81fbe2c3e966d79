"""What a candidate makes of one tensor, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from tqcli.codecs import Codec

# Given the flat index of a piece's first vector, the original vectors (n, head_dim), and whether to
# refuse values that are not finite: the decoded vectors.
Decode = Callable[[int, NDArray[Any], bool], NDArray[Any]]


@dataclass(frozen=True)
class Source:
    """Where the decoded vectors of a tensor come from.

    Attributes
    ----------
    type : str or None
        Cache type with its modifiers; None for a second dump.
    codecs : tuple of Codec
        One for all heads or one a head; empty for a second dump.
    bits_per_value : float or None
        Everything that is stored for the tensor, over its values.
    pieces : function
        Given the number of vectors of a piece, a :data:`Decode` for each piece. What is read for
        it is checked against its digest once all were taken.
    """

    type: str | None
    codecs: tuple[Codec, ...]
    bits_per_value: float | None
    pieces: Callable[[int], Iterator[Decode]]
