"""What a model's cache holds, layer by layer, and which RoPE turned its keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqcli.errors import InputError
from tqcli.plan.bits import SideShape
from tqcli.plan.calibration import open_calibration
from tqcli.plan.center import AFTER, BEFORE, CALIBRATED, OWN, Center, own_center
from tqcli.plan.plan import Plan
from tqcli.plan.tokens import Tokens
from tqcli.plan.types import SIDES
from tqcli.rope import UNKNOWN_ROPE, Rope


@dataclass(frozen=True)
class CachedLayers:
    """Layers with K and V.

    Parameters
    ----------
    shapes : tuple of SideShape
        K and V of each layer, one after the other.
    ropes : mapping of int to Rope
        By layer; of kind ``unknown`` where none was found.
    """

    shapes: tuple[SideShape, ...] = ()
    ropes: Mapping[int, Rope] | None = None

    def origin(self, plan: Plan) -> str | None:
        """Where the means of a plan come from: ``own mean before RoPE``; None without any."""
        ropes = self.ropes or {}
        layers = [layer for layer in ropes if plan.type_of(layer, "k").center]
        if not layers:
            return None
        unknown = any(ropes[layer].kind == UNKNOWN_ROPE for layer in layers)
        return f"{CALIBRATED if plan.calibration else OWN} {AFTER if unknown else BEFORE}"


def probe(model: Any, tokens: Sequence[int]) -> CachedLayers:
    """Look at the cache of one short pass over the first of `tokens`."""
    from tqcli.sources.hf.layers import plan_layers
    from tqcli.sources.hf.rope import probe_ropes

    cache, found = probe_ropes(model, plan_layers(model.config), tokens)
    shapes = tuple(
        SideShape(index, side, int(states.shape[1]), int(states.shape[3]))
        for index in found
        for side, states in zip(
            SIDES, (cache.layers[index].keys, cache.layers[index].values), strict=True
        )
    )
    return CachedLayers(shapes, {index: rope for index, (rope, _) in found.items()})


def centers_of(
    plan: Plan, cache: Any, ropes: Mapping[int, Rope], source: Mapping[str, Any]
) -> dict[int, Center]:
    """The means that a plan takes away, by layer.

    Parameters
    ----------
    plan : Plan
    cache : a transformers cache
        Of the float run, whose own means are taken where the plan has no calibration.
    ropes : mapping of int to Rope
    source : mapping
        Provenance of the model, against which a calibration is held.

    Raises
    ------
    InputError
        The calibration is of another model or RoPE, or a key is not finite.
    """
    layers = [layer for layer in ropes if plan.type_of(layer, "k").center]
    if not layers:
        return {}
    if plan.calibration is None:
        return {layer: _own(cache.layers[layer], layer, ropes[layer]) for layer in layers}
    groups = [{"layers": [layer], **rope.to_json()} for layer, rope in ropes.items()]
    told = {**source, "kind": "transformers", "rope": groups}
    with open_calibration(plan.calibration.file) as opened:
        if opened.fingerprint() != plan.calibration.checksum:
            raise InputError(f"{plan.calibration.file}: has changed since the plan was read")
        found = {}
        for layer in layers:
            first, keys = _keys(cache.layers[layer])
            _, heads, count, head_dim = keys.shape
            tokens = Tokens.of_text(first, count)
            found[layer] = opened.center(layer, (heads, head_dim), told, tokens)
        return found


def _own(cached: Any, layer: int, rope: Rope) -> Center:
    first, keys = _keys(cached)
    known = None if rope.kind == UNKNOWN_ROPE else rope
    pieces = [(0, keys.reshape(-1, keys.shape[-1]))]
    tokens = Tokens.of_text(first, keys.shape[2])
    return own_center(pieces, keys.shape, tokens, known, f"layers.{layer}.k")


def _keys(cached: Any) -> tuple[int, Any]:
    """Position of the first token that a cache layer holds, and its keys."""
    keys = cached.keys.float().cpu().numpy()
    return cached.get_seq_length() - keys.shape[2], keys
