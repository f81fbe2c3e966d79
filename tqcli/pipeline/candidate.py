"""What a dump is held against: a cache plan, a packed cache, or a second dump."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from typing import Any, TypeVar

from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.kv.container import Container
from tqcli.kv.dump import Dump, KVTensor
from tqcli.kv.packed import SCHEMAS as PACKED_SCHEMAS
from tqcli.kv.packed import Packed, PackedTensor
from tqcli.pipeline.decoded import Decode, Source
from tqcli.pipeline.pieces import Cleaner, Nonfinite, read_head, require_finite
from tqcli.pipeline.sides import Sides
from tqcli.pipeline.stored import packed_head, packed_pieces, side_of
from tqcli.plan.plan import Plan
from tqcli.plan.side import Coded, SidePlan
from tqcli.plan.tokens import Tokens
from tqcli.plan.types import parse_type

_Twin = TypeVar("_Twin", KVTensor, PackedTensor)


class Candidate(ABC):
    """Another version of the tensors of a dump."""

    @abstractmethod
    def source(self, tensor: KVTensor) -> Source:
        """Where its version of a tensor comes from; checked before anything is read.

        Raises
        ------
        InputError
            If it has none, or one of another shape.
        """

    @abstractmethod
    def head(self, tensor: KVTensor, row: int, x: NDArray[Any]) -> NDArray[Any]:
        """Its version of one head, as a query finds it that comes long after.

        Parameters
        ----------
        tensor : KVTensor
        row : int
            Counts over batch and heads.
        x : float array, shape (seq_len, head_dim)
            The head in the dump.

        Returns
        -------
        float array, shape (seq_len, head_dim)
        """

    @property
    def tail(self) -> int:
        """So many tokens up to its own does a query find as they are in the dump."""
        return 0

    @property
    def plan(self) -> Plan | None:
        """How it was made, as far as that is known."""
        return None


class PlanCandidate(Candidate):
    """K and V of a dump under a cache plan, encoded and decoded as they are read.

    Parameters
    ----------
    plan : Plan
    sides : Sides
        Of the dump.
    """

    def __init__(self, plan: Plan, sides: Sides) -> None:
        self._plan, self._sides = plan, sides

    @property
    def plan(self) -> Plan:
        """The plan itself."""
        return self._plan

    def source(self, tensor: KVTensor) -> Source:
        """See :class:`Candidate`."""
        side, tokens = self._sides.of(self.plan, tensor)
        decode = partial(_encode_and_decode, side, tokens)
        return Source(
            side.label,
            tuple(side.codecs),
            side.bits_per_value(tokens),
            lambda count: repeat(decode, -(-tensor.vectors // count)),
        )

    def head(self, tensor: KVTensor, row: int, x: NDArray[Any]) -> NDArray[Any]:
        """See :class:`Candidate`; last tokens are coded, whatever the plan keeps of them."""
        side, tokens = self._sides.of(self.plan, tensor, aged=True)
        return _encode_and_decode(side, tokens, row * tensor.shape[2], x, True)

    @property
    def tail(self) -> int:
        """The last tokens that the plan keeps float."""
        return self.plan.keep_last


def _encode_and_decode(
    side: SidePlan, tokens: Tokens, first: int, x: NDArray[Any], checked: bool
) -> NDArray[Any]:
    coded = side.encode(first, x, tokens)
    return side.decode(first, len(x), coded, tokens, checked=checked)


class PackedCandidate(Candidate):
    """A packed cache, decoded as it is read."""

    def __init__(self, packed: Packed) -> None:
        self.packed = packed
        self._sides: dict[str, tuple[SidePlan, Tokens]] = {}

    def source(self, tensor: KVTensor) -> Source:
        """See :class:`Candidate`."""
        other, side, tokens = self._of(tensor)

        def pieces(count: int) -> Iterator[Decode]:
            for _, _, coded in packed_pieces(other, side, tokens, count):
                yield partial(_decode, side, tokens, coded)

        return Source(other.type, other.codecs, other.bits_per_value, pieces)

    def head(self, tensor: KVTensor, row: int, x: NDArray[Any]) -> NDArray[Any]:
        """See :class:`Candidate`."""
        del x
        other, side, tokens = self._of(tensor)
        return packed_head(other, side, tokens, row)

    @property
    def plan(self) -> Plan | None:
        """The types of its first layer, with stock codebooks, and the tokens that it keeps."""
        kinds = {tensor.side: tensor for tensor in reversed(self.packed.tensors)}
        k, v = (kinds.get(side) for side in "kv")
        if k is None or v is None:
            return None
        return Plan(parse_type(k.type, "k"), parse_type(v.type, "v"), (), *k.keep)

    def _of(self, tensor: KVTensor) -> tuple[PackedTensor, SidePlan, Tokens]:
        other = _matching(tensor, self.packed.get(tensor.layer, tensor.side), self.packed.path)
        if other.name not in self._sides:
            self._sides[other.name] = side_of(self.packed, other)
        return other, *self._sides[other.name]


def _decode(
    side: SidePlan, tokens: Tokens, coded: Coded, first: int, x: NDArray[Any], checked: bool
) -> NDArray[Any]:
    return side.decode(first, len(x), coded, tokens, checked=checked)


class DumpCandidate(Candidate):
    """A second dump, taken as it is."""

    def __init__(self, dump: Dump) -> None:
        self.dump = dump

    def source(self, tensor: KVTensor) -> Source:
        """See :class:`Candidate`."""
        twin = self._twin(tensor)

        def pieces(count: int) -> Iterator[Decode]:
            size = twin.shape[3] * twin.dtype.itemsize
            for _, piece in twin.stored.pieces(limit=count * size):
                yield partial(_as_it_is, twin, piece)

        return Source(None, (), None, pieces)

    def head(self, tensor: KVTensor, row: int, x: NDArray[Any]) -> NDArray[Any]:
        """See :class:`Candidate`."""
        del x
        return read_head(self._twin(tensor), row, Cleaner())

    def _twin(self, tensor: KVTensor) -> KVTensor:
        return _matching(tensor, self.dump.get(tensor.layer, tensor.side), self.dump.path)


def _as_it_is(
    tensor: KVTensor, piece: NDArray[Any], first: int, _: NDArray[Any], checked: bool
) -> NDArray[Any]:
    if checked:
        require_finite(tensor, first, piece)
    return piece


def _matching(tensor: KVTensor, other: _Twin | None, path: str) -> _Twin:
    """Refuse a version of a tensor that is missing or of another shape."""
    mine = tensor.stored.file.path
    if other is None:
        raise InputError(f"{path}: has no {tensor.name}, which {mine} has; give its own pair")
    if other.shape != tensor.shape:
        raise InputError(
            f"{path}: {tensor.name} has shape {other.shape}, {mine} has {tensor.shape}; "
            "they must be equal"
        )
    return other


def plan_candidates(
    dump: Dump, plans: Sequence[Plan], *, nonfinite: Nonfinite = "error"
) -> list[PlanCandidate]:
    """Candidates for a dump, which share the means of its keys.

    Raises
    ------
    UsageError
        A plan names layers that the dump lacks.
    InputError
        A calibration is of another model.
    """
    for plan in plans:
        plan.check_layers({tensor.layer for tensor in dump.kv()}, dump.path)
    sides = Sides(dump, nonfinite)
    return [PlanCandidate(plan, sides) for plan in plans]


@contextmanager
def open_candidate(
    path: str | os.PathLike[str], dump: Dump, *, force: bool = False
) -> Iterator[tuple[Candidate, dict[str, Any]]]:
    """Open a packed cache or a second dump, and its input record for the report.

    Raises
    ------
    InputError
        If a packed cache says that it was made from another dump, unless `force`.
    """
    container = Container(path)
    schema = container.record.get("schema")
    container.close()
    if schema not in PACKED_SCHEMAS:
        with Dump(path) as twin:
            yield DumpCandidate(twin), {"path": twin.path, "fingerprint": twin.fingerprint()}
        return
    with Packed(path) as packed:
        if not force and not packed.made_from(dump):
            raise InputError(
                f"{packed.path}: was made from another dump than {dump.path}; "
                "give its own dump or pass --force"
            )
        yield PackedCandidate(packed), {"path": packed.path, "dump_fingerprint": packed.origin}
