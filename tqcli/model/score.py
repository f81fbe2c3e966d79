"""Score cache plans with the model in the loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqcli.errors import UsageError
from tqcli.model import proof
from tqcli.model.age import reading, require_readable
from tqcli.model.cache import make_writers, on_the_fly, replaced
from tqcli.model.canary import canary_plan
from tqcli.model.divergence import Divergence, compare, pooled, total_effect
from tqcli.model.layers import CachedLayers, centers_of, probe
from tqcli.model.loop import CHUNK_SIZE, Loop
from tqcli.model.state import State
from tqcli.model.subject import Subject
from tqcli.plan.bits import LENGTHS, bits_per_value
from tqcli.plan.plan import Plan
from tqcli.plan.types import SideType
from tqcli.words import counted

Progress = Callable[[int], None]  # tokens done since the last call
Row = dict[str, Any]

PREFIX, ON_THE_FLY = "prefix", "on-the-fly"
MODES = (PREFIX, ON_THE_FLY)
IDENTITY = "f16"


def parse_modes(text: str) -> tuple[str, ...]:
    """``prefix``, ``on-the-fly`` or ``both``."""
    if text == "both":
        return MODES
    if text not in MODES:
        raise UsageError(f"--mode {text}; {', '.join(MODES)} and both are legal")
    return (text,)


@dataclass(frozen=True)
class Scores:
    """All that a run measured.

    Parameters
    ----------
    plans : tuple of Plan
        The identity first, then those asked for, the canary last.
    modes : tuple of str
    texts : mapping of (mode, plan number) to a list of Divergence
        One for each token sequence.
    layers : CachedLayers
        What the cache holds.
    """

    plans: tuple[Plan, ...]
    modes: tuple[str, ...]
    texts: Mapping[tuple[str, int], list[Divergence]]
    layers: CachedLayers = field(default_factory=CachedLayers)

    def __repr__(self) -> str:
        """``<scores of f16, turbo3, canary; prefix; 4 texts>``."""
        plans, modes = (", ".join(names) for names in ([p.name for p in self.plans], self.modes))
        texts = counted(len(next(iter(self.texts.values()), ())), "text")
        return f"<scores of {plans}; {modes}; {texts}>"

    def rows(self) -> list[Row]:
        """One row a mode and plan."""
        return [
            {
                "name": plan.name,
                "mode": mode,
                "k": str(plan.k),
                "v": str(plan.v),
                "rules": " ".join(map(str, plan.rules)) or None,
                "keep_first": plan.keep_first,
                "keep_last": plan.keep_last,
                "mean": self.layers.origin(plan),
                "bits_k": _bits(self.texts[mode, number], ".k"),
                "bits_v": _bits(self.texts[mode, number], ".v"),
                **pooled(self.texts[mode, number]),
                **self._bits_at(plan),
            }
            for mode in self.modes
            for number, plan in enumerate(self.plans)
        ]

    def _bits_at(self, plan: Plan) -> Row:
        """Bits per value at other lengths of text, as what is kept float weighs less in each."""
        shapes = self.layers.shapes
        return {
            f"bits_{length >> 10}k": bits_per_value(plan, shapes, length) if shapes else None
            for length in LENGTHS
        }

    def by_text(self) -> list[Row]:
        """Mean KL of each text by itself: how far the texts agree."""
        return [
            {
                "name": self.plans[number].name,
                "mode": mode,
                "kl_mean": [float(text.kl.mean()) for text in texts],
            }
            for (mode, number), texts in self.texts.items()
        ]

    def prove(self) -> None:
        """Raise :class:`~tqcli.model.proof.ProofError` unless the run measured something."""
        for (mode, number), texts in self.texts.items():
            plan = self.plans[number]
            kl = float(pooled(texts)["kl_mean"])
            if plan == self.plans[0]:
                proof.require_identity(mode, kl)
            elif plan == self.plans[-1]:
                proof.require_canary(mode, kl)
            proof.require_effect(f"{plan.name} ({mode})", plan, texts)


def _bits(texts: Iterable[Divergence], side: str) -> float:
    effect = total_effect(texts, side)
    return 8 * effect.nbytes / effect.written


def with_proofs(plans: Iterable[Plan]) -> tuple[Plan, ...]:
    """The identity in front and the canary behind; each plan once.

    Raises
    ------
    UsageError
        If two different plans have one name.
    """
    identity = Plan(SideType(IDENTITY), SideType(IDENTITY))
    unique = {plan.identity(): plan for plan in (identity, *plans, canary_plan())}
    names = [plan.name for plan in unique.values()]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"{min(twice)}: names two different caches; give each a label")
    return tuple(unique.values())


def score(
    subject: Subject,
    plans: Sequence[Plan],
    *,
    modes: Sequence[str] = (PREFIX,),
    chunk_size: int = CHUNK_SIZE,
    state: Path | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Run every text with a float cache and with each plan's, and compare the logits.

    The second half of each text is scored. ``prefix``: the first half's cache is replaced, what
    comes after is float. ``on-the-fly``: every K and V is quantized as it is written, so that
    errors run through the layers and feed on themselves, as they do in an engine.

    ``+center`` takes the mean of K before RoPE from the plan's calibration or, without one, from
    the float run over the first half, in both modes.

    Last tokens that stay float are the last of the first half in ``prefix``; on the fly those
    before each query, its own included, however many tokens one pass reads.

    Parameters
    ----------
    subject : Subject
    plans : sequence of Plan
        Identity and canary are added by themselves.
    modes : sequence of {"prefix", "on-the-fly"}
    chunk_size : int
        Tokens of one forward pass; 1 is token by token.
    state : Path, optional
        File that an interrupted run continues from.
    progress : callable, optional
        Called with the tokens done since the last call, those of an earlier run included.

    Raises
    ------
    ProofError
        The run did not prove that it measured something.
    """
    import torch

    loop = Loop(subject.model, chunk_size)
    every = with_proofs(plans)
    if ON_THE_FLY in modes and any(plan.keep_last for plan in every):
        require_readable(subject.model)
    known = State(f"{subject.fingerprint}/{chunk_size}", state)
    jobs = [(mode, number) for mode in modes for number in range(len(every))]
    with torch.inference_mode():
        layers = probe(subject.model, max(subject.sequences, key=len))
        for index, tokens in enumerate(subject.sequences):
            text = None
            for mode, number in jobs:
                key = _key(index, mode, every[number])
                if key not in known.done:
                    text = text or _Text(loop, tokens, layers, subject.provenance)
                    known.put(key, text.run(every[number], mode))
                if progress is not None:
                    progress(tokens_of(mode, len(tokens)))
    found = {
        (mode, number): [
            known.done[_key(index, mode, every[number])] for index in range(len(subject.sequences))
        ]
        for mode, number in jobs
    }
    scores = Scores(every, tuple(modes), found, layers)
    scores.prove()
    return scores


def tokens_of(mode: str, length: int) -> int:
    """Tokens that scoring one plan on one text reads."""
    return length - length // 2 if mode == PREFIX else length


def total_tokens(subject: Subject, plans: Sequence[Plan], modes: Sequence[str]) -> int:
    """What the progress of a whole run adds up to."""
    each = sum(tokens_of(mode, len(s)) for mode in modes for s in subject.sequences)
    return each * len(with_proofs(plans))


def _key(text: int, mode: str, plan: Plan) -> str:
    return f"{text} {mode} {plan.identity()}"


class _Text:
    """The float run of one text, against which plans are held."""

    def __init__(
        self,
        loop: Loop,
        tokens: Sequence[int],
        layers: CachedLayers,
        provenance: Mapping[str, Any],
    ) -> None:
        from transformers import DynamicCache

        self.loop, self.provenance = loop, provenance
        half = len(tokens) // 2
        self.before, self.after = tokens[:half], tokens[half:]
        self.cache: Any = DynamicCache(config=loop.model.config)
        loop.read(self.before, self.cache)
        self.layers = layers
        self.reference = loop.logits(self.after, copy.deepcopy(self.cache))

    def run(self, plan: Plan, mode: str) -> Divergence:
        """Score one plan."""
        centers = centers_of(plan, self.cache, self.layers.ropes or {}, self.provenance)
        if mode == PREFIX:
            writers = make_writers(plan, self.layers.shapes, centers)
            logits = self.loop.logits(self.after, replaced(self.cache, writers))
        else:
            # A token is written once it is old, whatever its place in a pass.
            writers = make_writers(replace(plan, keep_last=0), self.layers.shapes, centers)
            cache = on_the_fly(self.loop.model.config, writers, plan.keep_last)
            with reading(self.loop.model, plan.keep_last):
                self.loop.read(self.before, cache)
                logits = self.loop.logits(self.after, cache)
        effects = {}
        for pair in writers.values():
            for writer in pair:
                if mode == ON_THE_FLY and plan.keep_last:
                    writer.count_kept(plan, len(self.before) + len(self.after))
                effects[f"layers.{writer.layer}.{writer.side}"] = writer.effect
        return replace(compare(self.reference, logits, self.after[1:]), effects=effects)
