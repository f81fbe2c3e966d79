"""The type of one side of a cache: a codec id, and modifiers that say what is done around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from tqcli import codecs
from tqcli.codecs.heads import HeadCodecs
from tqcli.errors import InputError, UsageError
from tqcli.plan.references import Book

Side = Literal["k", "v"]
SIDES: tuple[Side, Side] = ("k", "v")

# Leaves the values of a float32 run as they are: the type of everything that is not quantized.
FLOAT = "f32"
# Types that lose nothing but rounding; every other one must change what it is given.
FLOAT_TYPES = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class Modifier:
    """Something that is done around a codec; the bytes of its blocks stay what its id says.

    Parameters
    ----------
    name : str
        Written behind the id: ``turbo3+center``.
    sides : tuple of {"k", "v"}
        Which sides take it.
    reason : str
        Why others do not, for a person to read.
    """

    name: str
    sides: tuple[Side, ...]
    reason: str


CENTER = "center"
# In the order in which they are written. A size behind +rot is part of the bytes, so +rot belongs
# to the codec's id.
MODIFIERS: dict[str, Modifier] = {
    CENTER: Modifier(CENTER, ("k",), "is for K, whose mean softmax ignores"),
}


@dataclass(frozen=True)
class SideType:
    """A codec for K or for V, and what is done around it.

    Parameters
    ----------
    name : str
        Codec id, ``+rot`` included.
    modifiers : tuple of str
        Names of :data:`MODIFIERS`, in that order.
    codebook : Book, optional
        Fitted tables instead of the stock one.

    Raises
    ------
    UsageError
        If the id is unknown, or takes no codebook.
    """

    name: str
    modifiers: tuple[str, ...] = ()
    codebook: Book | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Fail on an unknown id before any file is opened."""
        if self.codebook is None:
            codecs.codec(self.name, side="k", head_dim=64)
        else:
            codecs.codec(self.name, codebook=next(iter(self.codebook.tables.tables.values())))

    def __str__(self) -> str:
        """As one writes it."""
        return "+".join((self.name, *self.modifiers))

    @property
    def center(self) -> bool:
        """Whether the mean is taken away before encoding and added back after decoding."""
        return CENTER in self.modifiers

    @property
    def quantizes(self) -> bool:
        """Whether this type must change the values that it is given."""
        return self.name not in FLOAT_TYPES

    def codecs_for(self, layer: int, side: str, heads: int, head_dim: int) -> HeadCodecs:
        """The codecs of one side of one layer.

        Raises
        ------
        InputError
            If the format cannot hold such heads, or the codebook has no table for them.
        """
        try:
            made = HeadCodecs(self._codecs(layer, side, heads, head_dim))
            made.blocks_shape(head_dim)
        except InputError as error:
            raise InputError(f"layers.{layer}.{side}: {error}") from error
        return made

    def _codecs(self, layer: int, side: str, heads: int, head_dim: int) -> list[codecs.Codec]:
        if self.codebook is None:
            return [codecs.codec(self.name, side=side, head_dim=head_dim)]
        tables = self.codebook.tables
        places = range(heads) if tables.per_head else (None,)
        return [codecs.codec(self.name, codebook=tables.find(layer, side, head)) for head in places]

    def identity(self) -> list[Any]:
        """JSON values that differ whenever the stored bytes may."""
        return [str(self), self.codebook and self.codebook.checksum]


def parse_type(text: str, side: Side, codebook: Book | None = None) -> SideType:
    """``turbo3``, ``q4_0+rot`` or, for K, ``turbo3+center``; modifiers in any order.

    Raises
    ------
    UsageError
        If a name is unknown, or is not for this side.

    Examples
    --------
    >>> parse_type("q4_0+center+rot", "k")
    SideType(name='q4_0+rot', modifiers=('center',))
    """
    words = text.split("+")
    name = "+".join(word for word in words if word not in MODIFIERS)
    modifiers = tuple(word for word in MODIFIERS if word in words)
    for word in modifiers:
        if side not in MODIFIERS[word].sides:
            plain = "+".join(one for one in words if one != word)
            raise UsageError(
                f"{side.upper()} {text!r}: +{word} {MODIFIERS[word].reason}; write {plain} for "
                f"{side.upper()}, as in {text}/{plain}"
            )
    try:
        return SideType(name, modifiers, codebook)
    except UsageError as error:
        extra = ", ".join(f"+{one.name} ({'/'.join(one.sides)})" for one in MODIFIERS.values())
        raise UsageError(f"{error}; around any of them: {extra}") from error
