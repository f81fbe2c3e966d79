"""A cache plan: types of K and V, exceptions by layer, tokens that stay float, a calibration."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

from tqcli.errors import UsageError
from tqcli.plan.references import CalibrationFile
from tqcli.plan.rules import LayerRule, layer_spans
from tqcli.plan.types import FLOAT, Side, SideType


@dataclass(frozen=True)
class Plan:
    """How a whole cache is stored.

    Parameters
    ----------
    k, v : SideType
    rules : tuple of LayerRule
        Later ones win.
    keep_first : int
        Tokens at positions below it (the attention sinks) are kept in float16.
    keep_last : int
        So many tokens at the end of each text are kept in float16; while a model runs, a token
        stays float until it is that old.
    calibration : CalibrationFile, optional
        Where the means of ``+center`` come from; without one, from the tokens themselves.
    label : str
        Name in reports; the plan as one writes it where this is empty.

    Raises
    ------
    UsageError
        If a number of tokens is negative.
    """

    k: SideType
    v: SideType
    rules: tuple[LayerRule, ...] = ()
    keep_first: int = 0
    keep_last: int = 0
    calibration: CalibrationFile | None = field(default=None, repr=False)
    label: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no number of tokens."""
        for name, count in (("first", self.keep_first), ("last", self.keep_last)):
            if count < 0:
                raise UsageError(f"--keep-{name}: {count}; give 0 or more tokens")

    def __str__(self) -> str:
        """The plan as one writes it behind ``-t``; files that it leans on are not in it."""
        k, v = str(self.k), str(self.v)
        parts = [k if k == v else f"{k}/{v}"]
        parts += [f"keep-first={self.keep_first}"] if self.keep_first else []
        parts += [f"keep-last={self.keep_last}"] if self.keep_last else []
        return ",".join([*parts, *(f"layers={rule}" for rule in self.rules)])

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.label or str(self)

    def type_of(self, layer: int, side: Side) -> SideType:
        """The type of one side of one layer."""
        for rule in reversed(self.rules):
            found: SideType | None = getattr(rule, side)
            if layer in rule.layers and found is not None:
                return found
        return self.k if side == "k" else self.v

    def centers(self, layers: Collection[int]) -> bool:
        """Whether K of any of `layers` has its mean taken away."""
        return any(self.type_of(layer, "k").center for layer in layers)

    def only(self, layers: frozenset[int], every: frozenset[int], label: str) -> Plan:
        """This plan for `layers`, float for the others of `every`."""
        plain = SideType(FLOAT)
        rule = LayerRule(every - layers, plain, plain)
        return replace(self, rules=(*self.rules, rule), label=label)

    def check_layers(self, layers: Collection[int], where: str = "this model") -> None:
        """Refuse rules about layers that are not there.

        A range may run over layers without K and V (a hybrid model's), but not beyond the last.

        Parameters
        ----------
        layers : collection of int
            Those with K and V.
        where : str
            Whose they are, for errors.

        Raises
        ------
        UsageError
            A rule names a layer beyond the last, or none that is there.
        """
        last = max(layers, default=-1)
        for rule in self.rules:
            beyond = [layer for layer in rule.layers if layer > last]
            if beyond or not rule.layers & set(layers):
                missing = min(beyond or rule.layers)
                raise UsageError(
                    f"--layer {rule}: layer {missing}; {where} has "
                    f"{layer_spans(frozenset(layers)) or 'none'}"
                )

    def flags(self) -> list[str]:
        """The options that make this plan, on the command line of every command that takes one."""
        words = ["-ctk", str(self.k), "-ctv", str(self.v)]
        words += ["--keep-first", str(self.keep_first)] if self.keep_first else []
        words += ["--keep-last", str(self.keep_last)] if self.keep_last else []
        for rule in self.rules:
            words += ["--layer", str(rule)]
        for side in ("k", "v"):
            book = getattr(self, side).codebook
            words += [f"--codebook-{side}", book.file] if book is not None else []
        words += ["--calibration", self.calibration.file] if self.calibration else []
        return words

    def identity(self) -> str:
        """A key that differs whenever the cache may; labels and paths do not count."""
        return json.dumps(
            [
                self.k.identity(),
                self.v.identity(),
                [[sorted(r.layers), *(t and t.identity() for t in (r.k, r.v))] for r in self.rules],
                [self.keep_first, self.keep_last],
                self.calibration and self.calibration.checksum,
            ]
        )

    def record(self) -> dict[str, Any]:
        """What packed files and reports say of it: content, no path of this machine."""
        books = {"k": self.k.codebook, "v": self.v.codebook}
        used = {s: {"id": b.tables.id, "checksum": b.checksum} for s, b in books.items() if b}
        return {
            "k": str(self.k),
            "v": str(self.v),
            "layers": [str(rule) for rule in self.rules],
            "keep_first": self.keep_first,
            "keep_last": self.keep_last,
            "codebooks": used,
            "calibration": self.calibration and {"checksum": self.calibration.checksum},
        }
