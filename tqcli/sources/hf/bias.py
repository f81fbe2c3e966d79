"""The bias of a model's key projection: a mean of K before RoPE that needs no text."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError
from tqcli.rope import Rope
from tqcli.sources.hf import model as hf_model
from tqcli.sources.hf.attention import attention_modules
from tqcli.sources.hf.prefill import Prefill
from tqcli.sources.hf.rope import KEY_NORM, PROBE_TOKENS

PROJECTION = "k_proj"


@dataclass(frozen=True)
class KeyBias:
    """What a model's weights say of its keys.

    Parameters
    ----------
    provenance : dict
        kind, model, revision, architecture, config_sha256, tokenizer_sha256.
    ropes : dict of int to Rope
    biases : dict of int to float32 array (num_kv_heads, head_dim)
    """

    provenance: dict[str, Any]
    ropes: dict[int, Rope]
    biases: dict[int, NDArray[np.float32]]


def key_bias(
    source: str, *, revision: str | None = None, note: hf_model.Note | None = None
) -> KeyBias:
    """Read the biases of a model, and find out what RoPE does to its keys.

    Parameters
    ----------
    source : str
        Model folder, hub id, ``.gguf`` file or alias.
    revision : str, optional
        On the hub.
    note : callable, optional
        Called with a sentence for the user.

    Raises
    ------
    UsageError
        The extra ``tqcli[hf]`` is not installed.
    InputError
        No such model, or its keys have no bias of their own.
    """
    ref = hf_model.resolve(source, revision=revision, note=note)
    hf_model.quiet()
    config, tokenizer = hf_model.load_config(ref), hf_model.load_tokenizer(ref)
    model = hf_model.load_model(ref)
    biases, ropes = bias_of(model, ref.model)
    provenance = {
        "kind": "transformers",
        "model": ref.model,
        "revision": ref.revision,
        "architecture": str(config.get_text_config(decoder=True).model_type),
        "config_sha256": hf_model.config_sha256(config),
        "tokenizer_sha256": hf_model.tokenizer_sha256(tokenizer),
    }
    return KeyBias(provenance, ropes, biases)


def bias_of(model: Any, name: str) -> tuple[dict[int, NDArray[np.float32]], dict[int, Rope]]:
    """Biases and RoPE by layer; `name` is the model's, for errors."""
    with tempfile.TemporaryDirectory(prefix="tq-bias-") as folder:
        tokens = [i % model.config.get_text_config(decoder=True).vocab_size for i in _PROBE]
        run = Prefill(model, [tokens], Path(folder), queries=False, chunk_size=len(tokens))
        run.run()
        biases, ropes = {}, {}
        for index, module in attention_modules(model).items():
            if index not in run.plan.kinds:
                continue
            layout = run.spools[f"layers.{index}.k"].layout
            bias = getattr(getattr(module, PROJECTION, None), "bias", None)
            normed = any(KEY_NORM.fullmatch(child) for child, _ in module.named_children())
            if bias is None or layout is None or normed:
                why = "a norm follows it" if normed else f"layer {index} has none"
                raise InputError(
                    f"{name}: no bias of {PROJECTION} to take for the mean ({why}); calibrate on "
                    "dumps of texts"
                )
            values = bias.detach().float().cpu().numpy()
            biases[index] = values.reshape(layout.heads, layout.dim).copy()
            ropes[index] = run.rope(index)
    return biases, ropes


_PROBE = range(PROBE_TOKENS)
