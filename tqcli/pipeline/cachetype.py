"""A cache type as users name it, turned into the codecs of one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tqcli import codecs
from tqcli.codebook import CodebookSet
from tqcli.codecs import Codec
from tqcli.errors import InputError, UsageError
from tqcli.kv.dump import KVTensor


@dataclass(frozen=True)
class CacheType:
    """``turbo3``, ``q4_0+rot``, or a turbo type with a fitted codebook.

    Raises
    ------
    UsageError
        If the name is unknown.
    """

    name: str
    codebook: CodebookSet | None = None

    def __post_init__(self) -> None:
        """Fail on an unknown name before any file is opened."""
        if self.codebook is None:
            codecs.codec(self.name, side="k", head_dim=64)
        else:
            codecs.codec(self.name, codebook=next(iter(self.codebook.tables.values())))

    def codecs_for(self, tensor: KVTensor) -> tuple[Codec, ...]:
        """One codec for all heads of a tensor, or one a head if the codebook has such tables."""
        _, heads, _, head_dim = tensor.shape
        if self.codebook is None:
            made: tuple[Codec, ...] = (
                codecs.codec(self.name, side=tensor.side, head_dim=head_dim),
            )
        else:
            count = heads if self.codebook.per_head else 1
            books = [
                self.codebook.find(tensor.layer, tensor.side, h if count > 1 else None)
                for h in range(count)
            ]
            made = tuple(codecs.codec(self.name, codebook=book) for book in books)
        try:
            for codec in made:
                codec.padded_dim(head_dim)
        except InputError as error:
            raise InputError(f"{tensor.name}: {error}") from error
        return made


def parse_pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Names of K and V types of each text; none twice, since rows are told apart by them.

    Raises
    ------
    UsageError
        If a text names no pair, or the same one as another.
    """
    pairs = [parse_pair(text) for text in texts]
    for at, pair in enumerate(pairs):
        if pair in pairs[:at]:
            raise UsageError(f"type {texts[at]!r} came twice; name each once")
    return pairs


def parse_pair(text: str) -> tuple[str, str]:
    """``turbo3`` for both sides or ``q8_0/turbo3`` for K/V."""
    parts = text.split("/")
    if len(parts) > 2 or not all(parts):
        raise UsageError(f"type {text!r}; give TYPE for K and V alike, or KTYPE/VTYPE")
    return parts[0], parts[-1]
