"""Find out which rotary embedding a model applied to each layer's K, by looking at its K.

Configs say a base and a scaling rule; whether a layer is rotated at all, which dimensions, and
which values turn together is code. So the projection's output is caught on its way, every rule
that the model holds frequencies for is tried on it, and the one that reproduces the cached K is
recorded together with its error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.rope import NO_ROPE, UNKNOWN_ROPE, Rope, apply_rope
from tqcli.sources.hf.attention import KEY_PROJECTIONS, attention_modules
from tqcli.sources.hf.forward import forward
from tqcli.sources.hf.layers import LayerPlan, plain_cache

PROBE_TOKENS = 64  # enough for neighbouring bases to differ by far more than the tolerance
_TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 3e-2}  # relative error of a match
KEY_NORM = re.compile(r"k_?(norm|layernorm)|key_(norm|layernorm)")


class Probe:
    """K of the first tokens before RoPE, caught by forward hooks."""

    def __init__(self) -> None:
        self._projected: dict[int, NDArray[np.float32]] = {}
        self._normed: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def before_rope(self, index: int, shape: tuple[int, int, int]) -> list[NDArray[np.float32]]:
        """K of layer ``index``, each ``(heads, tokens, dim)``: every reading that is possible.

        Empty where it was not caught; two where one projection makes Q, K and V.
        """
        heads, tokens, dim = shape
        projected = self._projected.get(index)
        if projected is None:
            return []
        readings = []
        if projected.size == heads * tokens * dim:
            readings.append(projected.reshape(tokens, heads, dim))
        elif projected.shape[-1] >= 3 * heads * dim:
            first = projected.shape[-1] - 2 * heads * dim  # all of Q, all of K, all of V
            whole = projected[:, first : first + heads * dim]
            readings.append(whole.reshape(tokens, heads, dim))
            if projected.shape[-1] == 3 * heads * dim:  # q, k and v of each head together
                readings.append(projected.reshape(tokens, heads, 3, dim)[:, :, 1])
        readings = [reading.transpose(1, 0, 2) for reading in readings]
        if index not in self._normed:
            return readings
        came, went = (_by_head(side, shape) for side in self._normed[index])
        # A norm that did not read the projection's output stands after RoPE: nothing to go by.
        fits = came is not None and any(np.array_equal(came, k) for k in readings)
        return [went] if fits else []

    def watch(self, index: int, module: Any) -> list[Any]:
        """Hook one attention module; returns the handles."""
        handles = []
        for name, child in module.named_children():
            if name in KEY_PROJECTIONS:
                handles.append(child.register_forward_hook(self._projection_hook(index)))
            elif KEY_NORM.fullmatch(name):
                handles.append(child.register_forward_hook(self._norm_hook(index)))
        return handles

    def _projection_hook(self, index: int) -> Any:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            self._projected.setdefault(index, _values(output))

        return keep

    def _norm_hook(self, index: int) -> Any:
        def keep(_module: Any, inputs: Any, output: Any) -> None:
            self._normed.setdefault(index, (_values(inputs[0]), _values(output)))

        return keep


@contextmanager
def probing(model: Any) -> Iterator[Probe]:
    """Catch K before RoPE in the one forward pass that runs inside."""
    probe = Probe()
    with ExitStack() as stack:
        for index, module in attention_modules(model).items():
            for handle in probe.watch(index, module):
                stack.callback(handle.remove)
        yield probe


def candidates(model: Any) -> list[Rope]:
    """Every rotary rule that the model holds frequencies for, pair layout still open."""
    config = model.config.get_text_config(decoder=True)
    parameters = getattr(config, "rope_parameters", None) or {}
    found: dict[tuple[float, ...], Rope] = {}
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if not name.endswith("inv_freq") or "original" in name:
                continue
            layer_type = name.removesuffix("inv_freq").rstrip("_")
            own = parameters.get(layer_type) or parameters
            magnitude = getattr(module, f"{layer_type}_attention_scaling".lstrip("_"), 1.0)
            inv_freq = tuple(float(f) for f in buffer.detach().float().cpu().numpy().ravel())
            found[inv_freq] = Rope(
                kind=str(own.get("rope_type", "default")),
                inv_freq=inv_freq,
                magnitude=float(magnitude),
                theta=own.get("rope_theta"),
                scaling={k: v for k, v in own.items() if k not in ("rope_type", "rope_theta")},
            )
    return list(found.values())


def identify(
    rules: list[Rope], before: list[NDArray[np.float32]], after: NDArray[Any], dtype: str
) -> tuple[Rope, float | None]:
    """The rule that takes a reading of ``before`` to ``after``, and its relative error.

    Parameters
    ----------
    rules : list of Rope
        From :func:`candidates`.
    before : list of float arrays, shape (heads, tokens, dim)
        Readings of K before RoPE, of the first tokens of a sequence.
    after : float array, shape (heads, tokens, dim)
        The same tokens' K in the cache.
    dtype : str
        What the model computed in.

    Returns
    -------
    Rope, float or None
        ``none`` for a layer that is not rotated, ``unknown`` where no rule fits or nothing could
        be compared. The error is None where there was nothing to compare.
    """
    if not rules:
        return Rope(NO_ROPE), None
    if not before:
        return Rope(UNKNOWN_ROPE), None
    trials = [Rope(NO_ROPE)]
    trials += [
        replace(rule, pairs=pairs)
        for rule in rules
        if rule.rotary_dims <= after.shape[-1]
        for pairs in ("half", "interleaved")
    ]
    positions, target = np.arange(after.shape[-2]), after.astype(np.float64)
    size = max(float(np.linalg.norm(target)), np.finfo(np.float64).tiny)
    errors = [
        min(float(np.linalg.norm(apply_rope(k, positions, trial) - target)) / size for k in before)
        for trial in trials
    ]
    best = int(np.argmin(errors))
    if errors[best] > _TOLERANCE[dtype]:
        return Rope(UNKNOWN_ROPE), errors[best]
    return trials[best], errors[best]


def probe_ropes(
    model: Any, plan: LayerPlan, sequence: Sequence[int]
) -> tuple[Any, dict[int, tuple[Rope, float | None]]]:
    """One short pass of its own, on the first tokens of a sequence, repeated if need be.

    Parameters
    ----------
    model : a transformers causal language model in evaluation mode
    plan : LayerPlan
        Of its config.
    sequence : sequence of int
        Token ids.

    Returns
    -------
    cache, dict of int to (Rope, float or None)
        The cache that the pass filled; what :func:`identify` gives, by layer that it filled.
    """
    import torch

    # a sliding layer forgets its first tokens once its window is full
    most = min([PROBE_TOKENS, *(w - 1 for w in plan.windows.values())])
    tokens = [sequence[i % len(sequence)] for i in range(max(most, 2))]
    cache: Any = plain_cache(model.config)
    with probing(model) as probe:
        forward(model.get_decoder(), torch.tensor([tokens], device=model.device), cache)
    rules, found = candidates(model), {}
    for index in plan.kinds:
        keys = getattr(cache.layers[index], "keys", None)
        if keys is None or keys.ndim != 4 or keys.shape[2] == 0:
            continue
        after = keys[0].float().cpu().numpy()
        before = probe.before_rope(index, after.shape)
        found[index] = identify(rules, before, after, str(keys.dtype).removeprefix("torch."))
    return cache, found


def _values(tensor: Any) -> NDArray[np.float32]:
    """A copy of the first sequence's values, in whatever order of axes they came."""
    values: NDArray[np.float32] = tensor.detach()[0].float().cpu().numpy().copy()
    return values


def _by_head(values: NDArray[np.float32], shape: tuple[int, int, int]) -> Any:
    """``(heads, tokens, dim)`` from any of the shapes that norms are applied in."""
    heads, tokens, dim = shape
    if values.shape == shape:
        return values
    if values.size != heads * tokens * dim:
        return None
    return values.reshape(tokens, heads, dim).transpose(1, 0, 2)
