"""A run must prove that it measured something before its figures are believed."""

from __future__ import annotations

from collections.abc import Sequence

from tqcli.errors import GateError
from tqcli.model.divergence import Divergence
from tqcli.plan.plan import Plan
from tqcli.plan.types import Side

# A cache of f16 moves next-token KL by about 1e-7 nats; a cache that is wired up wrongly (layers
# swapped, positions off by one) by more than 0.1.
IDENTITY_LIMIT = 1e-3
# Keys and values that are left rotated destroy any model; a text on which that costs less does not
# depend on its cache.
CANARY_FLOOR = 0.1
# Elements that a quantizer happens to hit exactly are few: below 1 in 10 with 8 bits a value.
EFFECT_SHARE = 0.5


class ProofError(GateError):
    """The run did not do what it says; its figures mean nothing."""


def require_effect(name: str, plan: Plan, texts: Sequence[Divergence]) -> None:
    """Every quantized side of every layer changed what was written, and the logits felt it.

    Raises
    ------
    ProofError
        Naming the plan and the first layer and side where nothing happened.
    """
    quantized = False
    for text in texts:
        for slot, effect in text.effects.items():
            _, layer, side = slot.split(".")
            chosen: Side = "k" if side == "k" else "v"
            if not plan.type_of(int(layer), chosen).quantizes or not effect.written:
                continue
            quantized = True
            if effect.changed < EFFECT_SHARE * effect.written:
                raise ProofError(
                    f"proof of effect failed: {name}: {slot} ({plan.type_of(int(layer), chosen)}): "
                    f"{effect.changed:,} of {effect.written:,} cache elements were replaced; the "
                    "codec did not take part"
                )
        if quantized and text.logit_change == 0:
            raise ProofError(
                f"proof of effect failed: {name}: no logit changed; the model does not read this "
                "cache"
            )


def require_identity(mode: str, kl_mean: float) -> None:
    """The float16 cache must cost next to nothing.

    Raises
    ------
    ProofError
    """
    if not kl_mean <= IDENTITY_LIMIT:
        raise ProofError(
            f"identity failed ({mode}): a cache of f16 has KL {kl_mean:.3g}, at most "
            f"{IDENTITY_LIMIT:g} is believed; the cache does not reach the model as it was written"
        )


def require_canary(mode: str, kl_mean: float) -> None:
    """The broken cache must score badly.

    Raises
    ------
    ProofError
    """
    if not kl_mean >= CANARY_FLOOR:
        raise ProofError(
            f"canary failed ({mode}): a cache that is broken on purpose has KL {kl_mean:.3g}, at "
            f"least {CANARY_FLOOR:g} is expected; this text or model cannot tell good from bad"
        )
