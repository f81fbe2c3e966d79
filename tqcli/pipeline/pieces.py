"""Vectors of a tensor piece by piece: split at heads, cleaned by the rule for NaN and Inf."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tqcli.codecs import Codec, VectorError
from tqcli.codecs.base import all_finite
from tqcli.errors import InputError, UsageError
from tqcli.kv.dump import Dump, KVTensor
from tqcli.plan.pieces import by_head as by_head

Nonfinite = Literal["error", "zero", "skip"]
Progress = Callable[[int], None]
Decode = Callable[[Codec, NDArray[np.uint8]], NDArray[Any]]


def no_progress(_: int) -> None:
    """For callers that show none."""


@dataclass
class Cleaner:
    """What to do with NaN and infinities.

    ``error`` leaves them for the codec to refuse, ``zero`` replaces them by 0, ``skip`` replaces
    the whole vector by zeros and leaves it out of every statistic.

    Attributes
    ----------
    zeroed : int
        Values replaced so far.
    skipped : int
        Vectors left out so far.
    """

    rule: Nonfinite = "error"
    zeroed: int = 0
    skipped: int = 0

    def __post_init__(self) -> None:
        """Refuse an unknown rule."""
        if self.rule not in get_args(Nonfinite):
            raise UsageError(f"--nonfinite {self.rule}; error, zero and skip are legal")

    def clean(self, piece: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """The piece, and a mask of vectors that count (None: all)."""
        if self.rule == "error":
            return piece, None
        bad = ~np.isfinite(piece)
        if not bad.any():
            return piece, None
        if self.rule == "zero":
            self.zeroed += int(bad.sum())
            return np.where(bad, piece.dtype.type(0), piece), None
        rows = bad.any(axis=1)
        self.skipped += int(rows.sum())
        return np.where(rows[:, None], piece.dtype.type(0), piece), ~rows


def require_finite(tensor: KVTensor, first: int, piece: NDArray[Any]) -> None:
    """Refuse NaN and infinities in vectors that start at flat index `first`."""
    if not all_finite(piece):
        bad = ~np.isfinite(piece)
        row, dim = np.unravel_index(int(np.argmax(bad)), piece.shape)
        raise InputError(
            f"{tensor.stored.file.path}: {tensor.name}: {int(bad.sum())} NaN or Inf values, first "
            f"at {tensor.place(first + int(row))} dim {int(dim)}; fix the dump or pass "
            "--nonfinite zero"
        )


def encode_piece(
    dump: Dump, tensor: KVTensor, made: Sequence[Codec], first: int, piece: NDArray[Any]
) -> NDArray[np.uint8]:
    """Encode vectors with the codec of their head; errors name file, tensor, token and head."""
    _, heads, seq_len, _ = tensor.shape
    at = first
    try:
        if len(made) == 1:
            return made[0].encode(piece)
        parts = []
        for row, start, part in by_head(first, piece, heads, seq_len):
            at = start
            parts.append(made[row % heads].encode(part))
        return np.concatenate(parts)
    except VectorError as error:
        place = tensor.place(at + error.vector)
        dim = "" if error.dim is None else f" dim {error.dim}"
        todo = "" if error.dim is None else "; fix the dump or pass --nonfinite zero"
        raise InputError(f"{dump.path}: {tensor.name}: {place}{dim}: {error.what}{todo}") from error


def decode_piece(
    where: str,
    made: Sequence[Codec],
    shape: tuple[int, int, int, int],
    first: int,
    blocks: NDArray[np.uint8],
    decode: Decode,
    checked: bool = True,
) -> NDArray[Any]:
    """Decode vectors with the codec of their head; errors name `where` and the vector.

    Unless `checked`, values that are not finite are left to the caller.
    """
    _, heads, seq_len, _ = shape
    at = first
    try:
        if len(made) == 1:
            return _decode(decode, made[0], blocks, checked)
        parts = []
        for row, start, part in by_head(first, blocks, heads, seq_len):
            at = start
            parts.append(_decode(decode, made[row % heads], part, checked))
        return np.concatenate(parts)
    except VectorError as error:
        row, token = divmod(at + error.vector, seq_len)
        place = f"token {token} head {row % heads}"
        raise InputError(f"{where}: {place}: {error.what}") from error


def _decode(decode: Decode, codec: Codec, blocks: NDArray[np.uint8], checked: bool) -> NDArray[Any]:
    """Refuse values that are not finite: in the blocks already, or beyond the dtype asked for."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = decode(codec, blocks)
    if checked and values.dtype != np.uint8 and not all_finite(values):
        row, dim = np.unravel_index(int(np.argmin(np.isfinite(values))), values.shape)
        raise VectorError(
            int(row),
            int(dim),
            f"decodes to {values[row, dim]} in {values.dtype} (dim {dim}); values must be finite, "
            "decode to a wider dtype or make the cache anew",
        )
    return values
