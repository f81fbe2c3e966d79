"""One pass of a model over tokens, into a cache of ours."""

from __future__ import annotations

import inspect
from typing import Any

# What transformers calls the cache, in arguments and in outputs: from 5.2x on, and before.
_NAMES = ("cache", "past_key_values")


def forward(model: Any, ids: Any, cache: Any) -> Any:
    """Run a model, or its decoder alone, on token ids of shape (1, tokens).

    The cache is passed under the name that this version of transformers gives it: the older one is
    deprecated, with a warning for each kind of model.
    """
    known = inspect.signature(model.forward).parameters
    name = next((name for name in _NAMES if name in known), _NAMES[-1])
    return model(input_ids=ids, use_cache=True, **{name: cache})


def returned_cache(output: Any) -> Any:
    """The cache that a model gives back, or None."""
    found = (getattr(output, name, None) for name in _NAMES)
    return next((cache for cache in found if cache is not None), None)
