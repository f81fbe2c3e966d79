"""Which type each K and V of a cache gets: names, modifiers, rules for single layers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tqcli import codecs
from tqcli.codebook import CodebookSet
from tqcli.codecs import Codec
from tqcli.errors import UsageError

Side = Literal["k", "v"]
SIDES: tuple[Side, Side] = ("k", "v")

CENTER = "center"
# Leaves the values of a float32 run as they are: the type of everything that is not quantized.
FLOAT = "f32"
# Types that lose nothing but rounding; every other one must change what it is given.
FLOAT_TYPES = ("f32", "f16", "bf16")


@dataclass(frozen=True)
class SideType:
    """The type of one side of the cache: a codec, and what is done around it.

    Parameters
    ----------
    name : str
        Codec id, ``+rot`` included.
    center : bool
        Take the mean over tokens away before encoding, and add it back after decoding.
    codebook : CodebookSet, optional
        A fitted table instead of the stock one.

    Raises
    ------
    UsageError
        If the name is unknown.
    """

    name: str
    center: bool = False
    codebook: CodebookSet | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Fail on an unknown name before any model is loaded."""
        if self.codebook is None:
            codecs.codec(self.name, side="k", head_dim=64)
        else:
            codecs.codec(self.name, codebook=next(iter(self.codebook.tables.values())))

    def __str__(self) -> str:
        """As the user would write it."""
        return self.name + (f"+{CENTER}" if self.center else "")

    @property
    def quantizes(self) -> bool:
        """Whether this type must change the values that it is given."""
        return self.name not in FLOAT_TYPES

    def codecs_for(self, layer: int, side: Side, heads: int, head_dim: int) -> tuple[Codec, ...]:
        """One codec for all heads, or one a head where the codebook has tables of single heads."""
        if self.codebook is None:
            return (codecs.codec(self.name, side=side, head_dim=head_dim),)
        places = range(heads) if self.codebook.per_head else (None,)
        books = [self.codebook.find(layer, side, head) for head in places]
        return tuple(codecs.codec(self.name, codebook=book) for book in books)

    def identity(self) -> list[Any]:
        """JSON values that differ whenever the stored bytes may."""
        book = None
        if self.codebook is not None:
            tables = {key: list(table.centroids) for key, table in self.codebook.tables.items()}
            book = hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()
        return [str(self), book]


def parse_type(text: str, side: Side, codebook: CodebookSet | None = None) -> SideType:
    """``turbo3``, ``q4_0+rot`` or, for K, ``turbo3+center``.

    Raises
    ------
    UsageError
        If the name is unknown, or V is to be centred.

    Examples
    --------
    >>> parse_type("q4_0+rot+center", "k")
    SideType(name='q4_0+rot', center=True)
    """
    words = text.split("+")
    name = "+".join(word for word in words if word != CENTER)
    center = CENTER in words
    if center and side == "v":
        raise UsageError(
            f"V {text!r}: +{CENTER} is for K, whose mean softmax ignores; write {name} for V, "
            f"as in {text}/{name}"
        )
    return SideType(name, center, codebook)


@dataclass(frozen=True)
class LayerRule:
    """Another type for some layers; a side that is None stays as it is."""

    layers: frozenset[int]
    k: SideType | None = None
    v: SideType | None = None

    def __str__(self) -> str:
        """As the user would write it, layer by layer."""
        sides = [f"{s}={t}" for s in SIDES if (t := getattr(self, s)) is not None]
        return f"{','.join(map(str, sorted(self.layers)))}:{','.join(sides)}"


def parse_rule(text: str) -> LayerRule:
    """``0-1:k=q8_0``, ``0,3,27:k=q8_0,v=f16``.

    Raises
    ------
    UsageError
        If it is no such rule.

    Examples
    --------
    >>> sorted(parse_rule("0-2,27:k=q8_0").layers)
    [0, 1, 2, 27]
    """
    where, _, what = text.partition(":")
    try:
        layers = frozenset(layer for part in where.split(",") for layer in _span(part))
        sides: dict[str, str] = dict(part.split("=") for part in what.split(","))
        if not sides.keys() <= set(SIDES) or not all(sides.values()):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--layer {text!r}; write LAYERS:SIDE=TYPE, as in 0-1:k=q8_0 or 0,27:k=q8_0,v=f16"
        ) from None
    return LayerRule(layers, **{s: parse_type(sides[s], s) for s in SIDES if s in sides})


def _span(text: str) -> range:
    first, dash, last = text.partition("-")
    start = int(first)
    stop = int(last) if dash else start
    if not 0 <= start <= stop:
        raise ValueError
    return range(start, stop + 1)


@dataclass(frozen=True)
class CachePlan:
    """A whole cache: types of K and V, exceptions by layer, tokens that stay float.

    Parameters
    ----------
    k, v : SideType
    rules : tuple of LayerRule
        Later ones win.
    keep_first : int
        So many first tokens (the attention sinks) are kept in float16.
    label : str
        Name in reports; made from the rest where it is empty.
    """

    k: SideType
    v: SideType
    rules: tuple[LayerRule, ...] = ()
    keep_first: int = 0
    label: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.keep_first < 0:
            raise UsageError(f"--keep-first: {self.keep_first}; legal is 0 or more")

    @property
    def name(self) -> str:
        """``turbo3``, ``q8_0/turbo3``, ``turbo3+center/turbo3, first 4 float``."""
        if self.label:
            return self.label
        k, v = str(self.k), str(self.v)
        name = k if k == v else f"{k}/{v}"
        if self.keep_first:
            name += f", first {self.keep_first} float"
        return name + (", by layer" if self.rules else "")

    def type_of(self, layer: int, side: Side) -> SideType:
        """The type of one side of one layer."""
        for rule in reversed(self.rules):
            found: SideType | None = getattr(rule, side)
            if layer in rule.layers and found is not None:
                return found
        return self.k if side == "k" else self.v

    def only(self, layers: frozenset[int], every: frozenset[int], label: str) -> CachePlan:
        """This plan for `layers`, float for the others of `every`."""
        plain = SideType(FLOAT)
        rule = LayerRule(every - layers, plain, plain)
        return replace(self, rules=(*self.rules, rule), label=label)

    def check_layers(self, count: int) -> None:
        """Raise :class:`UsageError` if a rule names a layer that a model of `count` lacks."""
        for rule in self.rules:
            if beyond := [layer for layer in rule.layers if layer >= count]:
                raise UsageError(f"--layer: layer {min(beyond)}; this model has 0 to {count - 1}")

    def identity(self) -> str:
        """A key that differs whenever the cache may."""
        parts = [
            self.k.identity(),
            self.v.identity(),
            [[sorted(r.layers), *(t and t.identity() for t in (r.k, r.v))] for r in self.rules],
            self.keep_first,
        ]
        return json.dumps(parts)
