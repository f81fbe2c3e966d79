"""What only the attention function sees: post-RoPE queries, scale, window; and W_o beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.sources.hf.spool import Spool

_PREFIX = "tqcli_recording_"
KEY_PROJECTIONS = ("k_proj", "qkv_proj", "query_key_value", "key", "c_attn", "Wqkv")
_OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj", "wo")


@dataclass
class Recorder:
    """Where the queries of each layer go, and what its attention was told.

    Parameters
    ----------
    base : str
        Name of the attention that does the work: ``sdpa`` or ``eager``.
    spools : dict of int to Spool
        One per layer that has K and V of its own; queries of other layers are not kept.
    """

    base: str
    spools: dict[int, Spool]
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __call__(self, module: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        """Record, then compute as the model would have done."""
        index = getattr(module, "layer_idx", None)
        if index in self.spools:
            self.spools[index].append(query, f"layers.{index}.q")
            self.facts.setdefault(index, _facts(module, query, kwargs))
        return self._attention(module)(module, query, *args, **kwargs)

    def _attention(self, module: Any) -> Callable[..., Any]:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        if self.base == "eager":  # every model family ships its own
            eager: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
            return eager
        chosen: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS[self.base]
        return chosen


_ACTIVE: ContextVar[Recorder | None] = ContextVar("active_recorder", default=None)


def _dispatch(module: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
    recorder = _ACTIVE.get()
    if recorder is None:
        raise InputError("attention: the recording function ran outside of a recording")
    return recorder(module, query, *args, **kwargs)


@contextmanager
def recording(model: Any, spools: dict[int, Spool]) -> Iterator[Recorder]:
    """Let ``model`` attend through a function that keeps its queries.

    It is registered in transformers' attention interface beside the model's own choice of
    attention, which still does the work and whose mask is used unchanged.

    Raises
    ------
    InputError
        The model does not attend through that interface.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    base = model.config._attn_implementation
    name = f"{_PREFIX}{base}"
    if base not in ("sdpa", "eager"):
        raise InputError(f"attention {base!r}: queries come from 'sdpa' and 'eager' only")
    AttentionInterface.register(name, _dispatch)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    model.set_attn_implementation(name)
    if model.config._attn_implementation != name:
        raise InputError(
            f"{type(model).__name__}: does not attend through transformers' attention interface;"
            " dump it without --queries"
        )
    recorder = Recorder(base, spools)
    token = _ACTIVE.set(recorder)
    try:
        yield recorder
    finally:
        _ACTIVE.reset(token)
        model.set_attn_implementation(base)


def _facts(module: Any, query: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What turns Q and K into attention weights: JSON values, absent where nothing special."""
    scale = kwargs.get("scaling") or getattr(module, "scaling", None) or query.shape[-1] ** -0.5
    facts: dict[str, Any] = {"scale": float(scale)}
    if kwargs.get("softcap") is not None:
        facts["softcap"] = float(kwargs["softcap"])
    if kwargs.get("s_aux") is not None:
        facts["attention_sinks"] = True  # learned logits beside the scores
    return facts


def attention_modules(model: Any) -> dict[int, Any]:
    """The module of each layer that computes K, by layer index."""
    return {
        int(module.layer_idx): module
        for module in model.modules()
        if isinstance(getattr(module, "layer_idx", None), int)
        and any(hasattr(module, name) for name in KEY_PROJECTIONS)
    }


def output_weight(module: Any, width: int) -> Any:
    """Weight of the output projection, (hidden, width); None where there is none of that shape."""
    for name in _OUTPUT_PROJECTIONS:
        projection = getattr(module, name, None)
        weight = getattr(projection, "weight", None)
        if weight is None or weight.ndim != 2:
            continue
        if type(projection).__name__ == "Conv1D":  # GPT-2's layer keeps its weight transposed
            weight = weight.T
        if weight.shape[1] == width:
            return weight
    return None


def output_gram(weight: Any, num_kv_heads: int, dim: int) -> NDArray[np.float32]:
    """Gram matrix of the output projection per KV head, summed over the query heads that share it.

    With ``W_h`` the columns of the projection that read query head ``h`` (hidden x dim), entry
    ``g`` is the sum of ``W_h.T @ W_h`` over the group of ``g``. For an error ``e`` in the output
    of every query head of the group, ``e @ gram[g] @ e`` is the energy that it causes after the
    projection, each query head counted by itself: cross terms between query heads are left out.

    Parameters
    ----------
    weight : tensor, shape (hidden, query_heads * dim)
        From :func:`output_weight`.
    num_kv_heads : int
    dim : int
        Values of one head of V.

    Returns
    -------
    float32 array, shape (num_kv_heads, dim, dim)
        Computed in float64.
    """
    columns = weight.detach().double().cpu().numpy()
    gram = np.empty((num_kv_heads, dim, dim), np.float32)
    for head, group in enumerate(np.split(columns, num_kv_heads, axis=1)):
        rows = group.reshape(-1, dim)  # one row per output value and query head
        gram[head] = rows.T @ rows
    return gram
