"""Which layers of a model keep K and V, going by its config."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tqcli.errors import InputError

# Cache layers of transformers that hold one K and one V per token, and those that hold none.
_KV_LAYERS = (
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
)
_RECURRENT = "LinearAttention"  # in the class name of every layer with state that is not per token
_NO_KV_LAYERS = {
    "LinearAttentionLayer": "recurrent state, no K or V per token",
    "DummyLayer": "no cache of its own (shares another layer's K and V, or has no attention)",
}


@dataclass(frozen=True)
class LayerPlan:
    """What a model's cache holds, layer by layer.

    Parameters
    ----------
    kinds : dict of int to str
        Kind of every layer with K and V: ``full_attention``, ``sliding_attention`` ...
    windows : dict of int to int
        Tokens that a query sees, itself included; only where there is a limit.
    skipped : dict of int to str
        Layers without K and V, and why.
    """

    kinds: dict[int, str]
    windows: dict[int, int]
    skipped: dict[int, str]


def plan_layers(config: Any) -> LayerPlan:
    """Read off a config which layers will have K and V.

    Raises
    ------
    InputError
        A layer keeps another kind of cache.
    """
    text_config = config.get_text_config(decoder=True)
    if getattr(text_config, "kv_lora_rank", None):
        raise InputError(
            f"{type(text_config).__name__}: latent attention: the cache holds one latent and one"
            " RoPE part per token; legal are models that cache K and V"
        )
    layers = plain_cache(config).layers
    names = getattr(text_config, "layer_types", None)
    plan = LayerPlan({}, {}, {})
    for index, layer in enumerate(layers):
        name = type(layer).__name__
        if name in _NO_KV_LAYERS:
            plan.skipped[index] = _NO_KV_LAYERS[name]
            continue
        if name not in _KV_LAYERS:
            raise InputError(
                f"layer {index}: its cache is a {name}; legal are layers with one K and one V per"
                f" token ({', '.join(_KV_LAYERS)})"
            )
        window = getattr(layer, "sliding_window", None)
        kind = "sliding_attention" if window else "full_attention"
        plan.kinds[index] = str(names[index]) if names else kind
        if window:
            plan.windows[index] = int(window)
    return plan


def is_recurrent(config: Any) -> bool:
    """Whether a layer keeps state that is not per token: such a run cannot begin in a text."""
    layers = plain_cache(config).layers
    return any(_RECURRENT in type(layer).__name__ for layer in layers)


def plain_cache(config: Any) -> Any:
    """The cache that transformers itself would make."""
    from transformers import DynamicCache

    return DynamicCache(config=config)
