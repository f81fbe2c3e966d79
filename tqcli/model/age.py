"""Attention over a cache whose tokens are float until they are old: each query by its own age.

Tokens of one pass have different last tokens. So the cache hands out the stored tokens and, behind
them, the youngest once more in float; the mask shows a query each token once: in float while it is
among the query's last, as stored after that. Softmax does not mind the order, so that a pass over
many tokens gives what they give one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqcli.errors import UsageError

_NAME, _BASE = "tq_age", "sdpa"


def require_readable(model: Any) -> None:
    """Refuse a model whose attention cannot be given another mask.

    Raises
    ------
    UsageError
    """
    kind = model.config._attn_implementation
    if kind != _BASE:
        raise UsageError(
            f"--keep-last on the fly: needs attention of the kind {_BASE}, {type(model).__name__} "
            f"has {kind}; use --mode prefix"
        )


@contextmanager
def reading(model: Any, keep_last: int) -> Iterator[None]:
    """Let `model` read caches whose last `keep_last` tokens are float; 0 changes nothing."""
    if not keep_last:
        yield
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    require_readable(model)

    def mask(*args: Any, **options: Any) -> Any:
        return sdpa_mask(*args, **{**options, "allow_is_causal_skip": False})

    def attend(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any
    ) -> Any:
        seen = by_age(attention_mask, key.shape[2], keep_last)
        return sdpa_attention_forward(module, query, key, value, seen, **options)

    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, mask)
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(_BASE)


def by_age(mask: Any, count: int, keep_last: int) -> Any:
    """Split a mask over tokens into one over stored tokens and the young ones behind them.

    Parameters
    ----------
    mask : bool tensor, shape (batch, 1, queries, tokens)
        The queries are the last tokens.
    count : int
        Stored and young tokens together.
    keep_last : int
        A query sees so many tokens in float, its own included.

    Returns
    -------
    bool tensor, shape (batch, 1, queries, count)
    """
    import torch

    queries, tokens = mask.shape[-2:]
    if count == tokens:  # a layer that does not write through a plan
        return mask
    at = torch.arange(tokens, device=mask.device)
    young = at[tokens - queries :, None] - at[None] < keep_last
    return torch.cat([mask & ~young, (mask & young)[..., 2 * tokens - count :]], dim=-1)
