"""Plans as people write them: one text, or the options of a command line.

``TYPE[/VTYPE][,keep-first=N][,keep-last=N][,layers=LAYERS:SIDE=TYPE]...``, for example
``turbo3+center/turbo3,keep-first=4,layers=0-1:k=q8_0``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqcli.errors import UsageError
from tqcli.plan.calibration import open_calibration
from tqcli.plan.document import read_plan
from tqcli.plan.plan import Plan
from tqcli.plan.references import Book, CalibrationFile
from tqcli.plan.rules import LayerRule, parse_rule
from tqcli.plan.types import parse_type

DEFAULT_TYPE = "turbo3"
_SHAPE = "TYPE[/VTYPE][,keep-first=N][,keep-last=N][,layers=0-1:k=TYPE]"
_COUNTS = ("keep-first", "keep-last")
_LAYERS = "layers"


def parse_plan(text: str, book_k: Book | None = None, book_v: Book | None = None) -> Plan:
    """A plan from one text.

    Parameters
    ----------
    text : str
    book_k, book_v : Book, optional
        Codebooks of the types in front; types of single layers have stock tables.

    Raises
    ------
    UsageError
        If a name is unknown or the text has another shape.

    Examples
    --------
    >>> str(parse_plan("turbo3+center/turbo3,layers=1,0:k=q8_0,v=f16,keep-first=4"))
    'turbo3+center/turbo3,keep-first=4,layers=0-1:k=q8_0,v=f16'
    """
    types, *parts = text.split(",")
    k, v = parse_pair(types)
    counts: dict[str, int] = {}
    rules: list[LayerRule] = []
    for key, value in _items(parts, text):
        if key == _LAYERS:
            rules.append(parse_rule(value))
        elif key in counts or not value.isdecimal():
            raise UsageError(f"plan {text!r}: {key}={value}; give one number of tokens")
        else:
            counts[key] = int(value)
    kinds = parse_type(k, "k", book_k), parse_type(v, "v", book_v)
    return Plan(*kinds, tuple(rules), counts.get("keep-first", 0), counts.get("keep-last", 0))


def parse_pair(text: str) -> tuple[str, str]:
    """``turbo3`` for both sides or ``q8_0/turbo3`` for K/V."""
    parts = text.split("/")
    if len(parts) > 2 or not all(parts):
        raise UsageError(f"type {text!r}; give TYPE for K and V alike, or KTYPE/VTYPE")
    return parts[0], parts[-1]


def _items(parts: Sequence[str], text: str) -> list[tuple[str, str]]:
    """Keys and values; a rule's own commas do not begin a new one."""
    items: list[tuple[str, str]] = []
    for part in parts:
        key, equals, value = part.partition("=")
        if equals and (key in _COUNTS or key == _LAYERS):
            items.append((key, value))
        elif items and items[-1][0] == _LAYERS:
            items[-1] = (_LAYERS, f"{items[-1][1]},{part}")
        else:
            raise UsageError(f"plan {text!r}: {part!r}; write {_SHAPE}")
    return items


@dataclass(frozen=True)
class PlanOptions:
    """What a command line says of plans.

    Parameters
    ----------
    types : sequence of str
        Texts of ``-t``, each a plan.
    cache_type_k, cache_type_v : str, optional
        ``-ctk`` and ``-ctv``; turbo3 where neither these nor others are given.
    layers : sequence of str
        Rules of ``--layer``, for every plan, after its own.
    keep_first, keep_last : int, optional
        For every plan that does not say its own number.
    codebook, codebook_k, codebook_v : Path, optional
    calibration : Path, optional
    files : sequence of Path
        Plan files of ``--plan``.
    """

    types: Sequence[str] = ()
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    layers: Sequence[str] = ()
    keep_first: int | None = None
    keep_last: int | None = None
    codebook: Path | None = None
    codebook_k: Path | None = None
    codebook_v: Path | None = None
    calibration: Path | None = None
    files: Sequence[Path] = ()

    def plans(self, default: Sequence[str] = (DEFAULT_TYPE,)) -> list[Plan]:
        """All plans, those of files behind the others.

        Parameters
        ----------
        default : sequence of str
            Texts that stand for ``-t`` where no option names a type or a plan.

        Raises
        ------
        UsageError
            Options exclude each other, or a plan is none.
        InputError
            A file is not what it should be.
        """
        if self.types and (self.cache_type_k or self.cache_type_v):
            raise UsageError("give -t, or -ctk and -ctv, not both")
        texts = list(self.types)
        if self.cache_type_k or self.cache_type_v:
            texts = [f"{self.cache_type_k or DEFAULT_TYPE}/{self.cache_type_v or DEFAULT_TYPE}"]
        if not texts and not self.files:
            texts = list(default)
        books = self._books()
        rules = tuple(map(parse_rule, self.layers))
        used = self._calibration()
        made = [parse_plan(text, *books) for text in texts]
        plans = [replace(plan, calibration=used) for plan in made]
        return [self._complete(plan, rules) for plan in (*plans, *map(read_plan, self.files))]

    def one(self) -> Plan:
        """The plan of a command that takes one.

        Raises
        ------
        UsageError
            There are several.
        """
        plans = self.plans()
        if len(plans) > 1:
            raise UsageError(f"{len(plans)} plans; this command takes one")
        return plans[0]

    def _complete(self, plan: Plan, rules: tuple[LayerRule, ...]) -> Plan:
        first, last = plan.keep_first, plan.keep_last
        return replace(
            plan,
            rules=(*plan.rules, *rules),
            keep_first=first or (self.keep_first or 0),
            keep_last=last or (self.keep_last or 0),
        )

    def _books(self) -> tuple[Book | None, Book | None]:
        if self.codebook is not None and (self.codebook_k or self.codebook_v):
            raise UsageError(
                "--codebook serves both sides; leave --codebook-k and --codebook-v out"
            )
        path_k, path_v = self.codebook_k or self.codebook, self.codebook_v or self.codebook
        book_k = None if path_k is None else Book.read(path_k)
        if path_v == path_k:
            return book_k, book_k
        return book_k, None if path_v is None else Book.read(path_v)

    def _calibration(self) -> CalibrationFile | None:
        if self.calibration is None:
            return None
        with open_calibration(self.calibration) as opened:
            return opened.reference()
