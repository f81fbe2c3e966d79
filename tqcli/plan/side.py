"""One side of one layer under a plan: floats to what a cache stores, and back.

Files, measures and the model's own cache all write through this class; the same tokens under the
same plan give the same bytes and floats in each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqcli.codecs import VectorError, codec
from tqcli.codecs.base import Blocks, Floats, all_finite
from tqcli.codecs.heads import HeadCodecs
from tqcli.errors import InputError
from tqcli.plan.center import Center
from tqcli.plan.plan import Plan
from tqcli.plan.segments import Segment, head_runs, segments
from tqcli.plan.tokens import Span, Tokens
from tqcli.plan.types import Side, SideType

F16 = NDArray[np.float16]


class Coded(NamedTuple):
    """What vectors became, in their order: blocks of those that are coded, floats of the others.

    Attributes
    ----------
    blocks : uint8 array, shape (coded, blocks_per_vector, block_bytes)
    kept : float16 array, shape (kept, head_dim)
    vanished : int
        Coded vectors that were too short for the stored norm, and so decode to zero.
    """

    blocks: Blocks
    kept: F16
    vanished: int = 0


@dataclass(frozen=True, eq=False)
class Stored:
    """A whole side of a layer as a cache stores it.

    Parameters
    ----------
    blocks : uint8 array, shape (batch, heads, coded, blocks_per_vector, block_bytes)
    kept : float16 array, shape (batch, heads, kept, head_dim)
        The first and last tokens of each text.
    mean : float16 array, shape (heads, head_dim), optional
        Taken away from every coded vector.
    tokens : Tokens
        Which of them are coded, and where they stand.
    """

    blocks: Blocks
    kept: F16
    mean: F16 | None
    tokens: Tokens

    @property
    def nbytes(self) -> int:
        """Bytes of it all."""
        return (
            self.blocks.nbytes + self.kept.nbytes + (0 if self.mean is None else self.mean.nbytes)
        )


_FIX = "fix the dump or pass --nonfinite zero"
# So many values lose their mean at a time: their float32 copy bounds the memory, and Python's share
# is small.
_BATCH_VALUES = 1 << 20


class SidePlan:
    """K or V of one layer under a plan.

    Vectors come and go in the order of a tensor (batch, heads, seq_len, head_dim), whole or piece
    by piece; a piece is named by the flat index of its first vector.

    Parameters
    ----------
    plan : Plan
    layer : int
    side : {"k", "v"}
    heads, head_dim : int
    center : Center, optional
        Needed where the type says ``+center``.
    where : str, optional
        Names the tensor in errors; ``layers.3.k`` if not given.
    fix : str
        What to do about values that are not finite, for errors.

    Raises
    ------
    InputError
        The format cannot hold such heads, or a mean is missing or of another shape.
    """

    def __init__(
        self,
        plan: Plan,
        layer: int,
        side: Side,
        heads: int,
        head_dim: int,
        center: Center | None = None,
        where: str | None = None,
        fix: str = _FIX,
    ) -> None:
        self.where = where or f"layers.{layer}.{side}"
        self._fix = f"; {fix}" if fix else ""
        self.type: SideType | None = plan.type_of(layer, side)
        self.codecs = self.type.codecs_for(layer, side, heads, head_dim)
        self.heads, self.head_dim = heads, head_dim
        # Floats are stored as they are: there is nothing to keep from being coded.
        self._keep = (plan.keep_first, plan.keep_last) if self.type.quantizes else (0, 0)
        self.center = center if self.type.center else None
        if self.type.center and (center is None or center.mean.shape != (heads, head_dim)):
            came = "none" if center is None else str(center.mean.shape)
            raise InputError(
                f"{self.where}: a mean of shape {(heads, head_dim)} is needed for {self.type}; "
                f"came {came}"
            )

    @classmethod
    def of_codecs(
        cls,
        codecs: HeadCodecs,
        heads: int,
        head_dim: int,
        keep: tuple[int, int],
        center: Center | None,
        where: str,
    ) -> SidePlan:
        """What a packed file says of a side: its codecs, tokens kept first and last, its mean."""
        made = cls.__new__(cls)
        made.where, made.codecs, made.heads, made.head_dim = where, codecs, heads, head_dim
        made._keep, made.center, made.type, made._fix = keep, center, None, f"; {_FIX}"
        return made

    @property
    def label(self) -> str:
        """Codec and modifiers; a size that +rot chose stands in it."""
        return "+".join((self.codecs.id, *(self.type.modifiers if self.type else ())))

    @property
    def keep(self) -> tuple[int, int]:
        """Tokens kept at the beginning and at the end of each text."""
        return self._keep

    def counts(self, first: int, count: int, tokens: Tokens) -> tuple[int, int]:
        """How many of vectors `first` to ``first + count - 1`` are coded, and how many kept."""
        if not any(self._keep):
            return count, 0
        kept = sum(s.stop - s.start for s in self._segments(first, count, tokens) if s.kept)
        return count - kept, kept

    @property
    def _batch(self) -> int:
        """Vectors that are worked on together where a mean is taken away."""
        return max(_BATCH_VALUES // self.head_dim, 1)

    def kept(self, tokens: Tokens) -> tuple[Span, ...]:
        """Runs of tokens, (first, behind the last), that stay in float16."""
        return tokens.kept(*self._keep, self.where) if any(self._keep) else ()

    def bits_per_value(self, tokens: Tokens) -> float | None:
        """Stored bits for each value of one row of `tokens`: blocks, kept tokens and the mean.

        None where there are no tokens.
        """
        if not tokens.seq_len:
            return None
        kept = sum(stop - first for first, stop in self.kept(tokens))
        floats = kept + (self.center is not None)
        coded = (tokens.seq_len - kept) * self.codecs.bits_per_value(self.head_dim)
        return (coded + 16 * floats) / tokens.seq_len

    def encode(self, first: int, piece: Floats, tokens: Tokens) -> Coded:
        """Encode vectors.

        Parameters
        ----------
        first : int
            Flat index of the first one.
        piece : float32, float16 or bfloat16 array, shape (n, head_dim)
        tokens : Tokens
            Of the whole side.

        Returns
        -------
        Coded

        Raises
        ------
        InputError
            NaN, infinity, or a value or scale that the format cannot hold; the message names
            the token and the head.
        """
        parts = self._segments(first, len(piece), tokens)
        coded = [part for part in parts if not part.kept]
        count, at, vanished = sum(s.stop - s.start for s in coded), 0, 0
        blocks = np.empty((count, *self.codecs.blocks_shape(self.head_dim)), np.uint8)
        room = 0 if self.center is None else min(count, self._batch)
        scratch = np.empty((room, self.head_dim), np.float32)
        for some in self._batches(coded):
            vectors = self._vectors(piece, some, tokens, scratch)
            try:
                made = self.codecs.encode(vectors, head_runs(some))
            except VectorError as error:
                raise self._error(error, some, self._fix) from error
            vanished += self.codecs[0].vanished(vectors, made)
            blocks[at : at + len(made)] = made
            at += len(made)
        return Coded(blocks, self._halves(piece, parts), vanished)

    def decode(
        self,
        first: int,
        count: int,
        coded: Coded,
        tokens: Tokens,
        dtype: DTypeLike = np.float32,
        *,
        checked: bool = True,
    ) -> Floats:
        """Undo :meth:`encode`.

        Parameters
        ----------
        first, count : int
            Which vectors: those that were encoded to `coded`.
        coded : Coded
        tokens : Tokens
        dtype : float32, float16 or bfloat16
        checked : bool
            Whether to refuse values that are not finite; a caller that sees them itself says no.

        Returns
        -------
        array of `dtype`, shape (count, head_dim)

        Raises
        ------
        InputError
            Blocks that do not decode to finite values of that dtype.
        """
        parts = self._segments(first, count, tokens)
        if self.center is None and not any(part.kept for part in parts):
            out = self._plain(coded.blocks, parts, np.dtype(dtype))
        else:
            out = self._joined(coded, parts, tokens, np.empty((count, self.head_dim), dtype))
        if checked and (bad := _not_finite(out)) is not None:
            raise self._error(bad, parts)
        return out

    def _joined(self, coded: Coded, parts: list[Segment], tokens: Tokens, out: Floats) -> Floats:
        """Coded and kept vectors in their places."""
        at = 0
        for some in self._batches([part for part in parts if not part.kept]):
            size = sum(s.stop - s.start for s in some)
            self._decode(coded.blocks[at : at + size], some, tokens, out)
            at += size
        at = 0
        for s in parts:
            if s.kept:
                out[s.start : s.stop] = coded.kept[at : at + s.stop - s.start]
                at += s.stop - s.start
        return out

    def store(self, values: Floats, tokens: Tokens | None = None) -> Stored:
        """What a cache stores of `values`.

        Parameters
        ----------
        values : float array, shape (batch, heads, seq_len, head_dim)
        tokens : Tokens, optional
            One text from position 0 on, if not given.

        Raises
        ------
        InputError
            As :meth:`encode`.
        """
        batch, heads, seq_len, head_dim = values.shape
        tokens = Tokens.of_text(0, seq_len) if tokens is None else tokens
        coded = self.encode(0, values.reshape(-1, head_dim), tokens)
        shape = self.codecs.blocks_shape(head_dim)
        kept = sum(stop - first for first, stop in self.kept(tokens))
        return Stored(
            coded.blocks.reshape(batch, heads, seq_len - kept, *shape),
            coded.kept.reshape(batch, heads, kept, head_dim),
            None if self.center is None else self.center.mean,
            tokens,
        )

    def load(self, stored: Stored, dtype: DTypeLike = np.float32) -> Floats:
        """Undo :meth:`store`: an array of `dtype`, shape (batch, heads, seq_len, head_dim)."""
        batch, heads, _, head_dim = stored.kept.shape
        shape = (batch, heads, stored.tokens.seq_len, head_dim)
        blocks = stored.blocks.reshape(-1, *stored.blocks.shape[3:])
        coded = Coded(blocks, stored.kept.reshape(-1, head_dim))
        count = batch * heads * stored.tokens.seq_len
        return self.decode(0, count, coded, stored.tokens, dtype).reshape(shape)

    def _segments(self, first: int, count: int, tokens: Tokens) -> list[Segment]:
        return list(segments(first, count, self.heads, tokens.seq_len, self.kept(tokens)))

    def _batches(self, coded: list[Segment]) -> Iterator[list[Segment]]:
        """Segments that are worked on together.

        Without a mean a long run needs no copy, and only short ones are put together; with one
        there is room for so many.
        """
        some: list[Segment] = []
        room = self._batch
        for s in coded:
            if self.center is None:
                if some and room <= 0 and s.start != some[-1].stop:
                    yield some
                    some, room = [], self._batch
            else:
                while s.stop - s.start > room:
                    head, s = s.cut(room)
                    yield [*some, head]
                    some, room = [], self._batch
            some.append(s)
            room -= s.stop - s.start
        if some:
            yield some

    def _vectors(
        self, piece: Floats, some: list[Segment], tokens: Tokens, scratch: Floats
    ) -> Floats:
        """The vectors of segments; without their mean, they lie in `scratch`."""
        count = sum(s.stop - s.start for s in some)
        if self.center is None:
            first, stop = some[0].start, some[-1].stop
            if count == stop - first:
                return piece[first:stop]
            return np.concatenate([piece[s.start : s.stop] for s in some])
        out, at = scratch[:count], 0
        for s in some:
            x, target = piece[s.start : s.stop], out[at : at + s.stop - s.start]
            self.center.take(x, s.head, tokens, tokens.row(s.number), s.token, target)
            at += len(x)
        return out

    def _decode(self, blocks: Blocks, some: list[Segment], tokens: Tokens, out: Floats) -> None:
        """Decode the blocks of segments to their places in `out`, with their mean."""
        wide = out.dtype if self.center is None else np.dtype(np.float32)
        vectors = self._plain(blocks, some, wide)
        at = 0
        for s in some:
            x, target = vectors[at : at + s.stop - s.start], out[s.start : s.stop]
            at += len(x)
            if self.center is None:
                target[...] = x
            else:
                self.center.give(x, s.head, tokens, tokens.row(s.number), s.token, target)

    def _plain(self, blocks: Blocks, some: list[Segment], dtype: np.dtype[Any]) -> Floats:
        """What the blocks of segments decode to, without a mean."""
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                return self.codecs.decode(blocks, self.head_dim, head_runs(some), dtype)
            except VectorError as error:
                raise self._error(error, some) from error

    def _halves(self, piece: Floats, parts: list[Segment]) -> F16:
        """The vectors that are kept, in float16."""
        kept = [part for part in parts if part.kept]
        if not kept:
            return np.empty((0, self.head_dim), np.float16)
        vectors = np.concatenate([piece[s.start : s.stop] for s in kept])
        try:
            blocks = codec("f16").encode(vectors)
        except VectorError as error:
            raise self._error(error, kept, "" if all_finite(vectors) else self._fix) from error
        return blocks.reshape(len(vectors), -1).view(np.float16)

    def _error(self, error: VectorError, parts: list[Segment], todo: str = "") -> InputError:
        """An error about a vector of some segments, with words for its place."""
        left = error.vector
        for s in parts:
            if left < s.stop - s.start:
                break
            left -= s.stop - s.start
        batch = f"batch {s.number} " if s.number else ""
        dim = "" if error.dim is None else f" dim {error.dim}"
        place = f"{batch}token {s.token + left} head {s.head}{dim}"
        return InputError(f"{self.where}: {place}: {error.what}{todo if dim else ''}")


def _not_finite(values: Floats) -> VectorError | None:
    """The error for a value that is not finite: in the blocks already, or beyond the dtype."""
    if all_finite(values):
        return None
    row, dim = np.unravel_index(int(np.argmin(np.isfinite(values))), values.shape)
    return VectorError(
        int(row),
        None,
        f"decodes to {values[row, dim]} in {values.dtype} (dim {dim}); values must be finite, "
        "decode to a wider dtype or make the cache anew",
    )
