"""Transformers models as a source: prompts in; K, V, Q and W_o's Gram matrices out."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError, UsageError
from tqcli.sources.base import Named, SourceInfo, TensorSpec, tokens_sha256
from tqcli.sources.hf import model as hf_model
from tqcli.sources.hf.attention import attention_modules, output_gram, output_weight
from tqcli.sources.hf.layers import plan_layers
from tqcli.sources.hf.prefill import Prefill, Progress
from tqcli.sources.hf.prompts import Prompts, token_sequences
from tqcli.sources.hf.spool import NUMPY_DTYPES, hand_out, packed_shape

CHUNK_SIZE = 512  # tokens of one forward pass: activations stay small, matrix products large


@dataclass(frozen=True)
class Options:
    """How a model is run and what is kept.

    Parameters
    ----------
    queries : bool
        Keep post-RoPE queries and the Gram matrices of the output projection too.
    dtype : {"float16", "bfloat16", "float32"}
        Of the tensors handed out.
    compute_dtype : {"float32", "bfloat16", "float16"}
        Of the weights and of everything computed.
    device : str
        A PyTorch device.
    chunk_size : int
        Tokens of one forward pass.
    revision : str or None
        Hub revision.
    """

    queries: bool = False
    dtype: str = "float16"
    compute_dtype: str = "float32"
    device: str = "cpu"
    chunk_size: int = CHUNK_SIZE
    revision: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for option, dtype in (("--dtype", self.dtype), ("--compute-dtype", self.compute_dtype)):
            if dtype not in NUMPY_DTYPES:
                raise UsageError(f"{option}: {dtype!r}; legal are {', '.join(NUMPY_DTYPES)}")
        if self.chunk_size < 1:
            raise UsageError(f"--chunk-size: {self.chunk_size}; legal is 1 or more")


class TransformersSource:
    """One model reading one set of prompts.

    :meth:`describe` needs config and tokenizer only. The model runs when :meth:`run` is called or
    the first tensor is asked for; after that :meth:`describe` says what was really computed.
    Scratch files live in ``work_dir``. A folder that is given is its owner's to remove: an
    interrupted run is continued from it. Without one, :meth:`close` removes them.

    Parameters
    ----------
    source : str
        Model folder, hub id, ``.gguf`` file or alias.
    prompts : Prompts
    options : Options
    work_dir : Path, optional
    progress : callable, optional
        Called with the tokens done since the last call.
    note : callable, optional
        Called with a sentence for the user.

    Raises
    ------
    UsageError
        A package or an alias's weights are not installed, or an option is not legal.
    InputError
        No such model, no tokens, or a cache that does not hold one K and one V per token.
    """

    def __init__(
        self,
        source: str,
        prompts: Prompts,
        options: Options | None = None,
        *,
        work_dir: Path | None = None,
        progress: Progress | None = None,
        note: hf_model.Note | None = None,
    ) -> None:
        self.options = options or Options()
        self.ref = hf_model.resolve(source, revision=self.options.revision, note=note)
        hf_model.quiet()
        self.config = hf_model.load_config(self.ref)
        self.plan = plan_layers(self.config)
        tokenizer = hf_model.load_tokenizer(self.ref)
        self.sequences = token_sequences(prompts, tokenizer)
        self._tokenizer_sha256 = hf_model.tokenizer_sha256(tokenizer)
        self.progress = progress
        self._work_dir = work_dir
        self._own_dir: Path | None = None
        self._prefill: Prefill | None = None
        self._modules: dict[int, Any] = {}

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence."""
        return tuple(len(sequence) for sequence in self.sequences)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(self.lengths)

    @property
    def fingerprint(self) -> str:
        """Hash of model, tokens and options: what a continued run must agree in."""
        options = self.options
        parts = {
            "model": [self.ref.model, self.ref.revision, hf_model.config_sha256(self.config)],
            "weights": hf_model.weights_stamp(self.ref),
            "tokens": [tokens_sha256(sequence) for sequence in self.sequences],
            "options": [options.queries, options.compute_dtype, options.chunk_size],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def run(self) -> None:
        """Load the model and compute K and V (and Q) of every layer into scratch files."""
        if self._prefill is not None:
            return
        if self._work_dir is None:
            self._own_dir = self._work_dir = Path(tempfile.mkdtemp(prefix="tq-dump-"))
        options = self.options
        model = hf_model.load_model(self.ref, dtype=options.compute_dtype, device=options.device)
        prefill = Prefill(
            model,
            self.sequences,
            self._work_dir,
            queries=options.queries,
            chunk_size=options.chunk_size,
            fingerprint=self.fingerprint,
            progress=self.progress,
        )
        prefill.run()
        self.plan, self._prefill = prefill.plan, prefill
        self._modules = attention_modules(model)

    def describe(self) -> SourceInfo:
        """What comes: as the config promises it before the run, as it is after."""
        skipped = self.plan.skipped.items()
        notes = [f"layers.{index}: skipped: {reason}" for index, reason in sorted(skipped)]
        if not self.plan.kinds:
            raise InputError(f"{self.ref.model}: no layer has K and V")
        if len(set(self.lengths)) > 1:
            notes.append("prompts of unequal length follow each other along the token axis")
        shape = packed_shape(self.lengths)
        extras = (TensorSpec(name, shape, "int32") for name in ("token_ids", "positions"))
        return SourceInfo((*extras, *self._layer_specs()), self._provenance(), tuple(notes))

    def tensors(self) -> Iterator[Named]:
        """Yield token ids and positions, then by layer k, v and, with queries, q and o_gram."""
        self.run()
        shape = packed_shape(self.lengths)
        yield "token_ids", np.concatenate(self._per_sequence()).reshape(shape)
        positions = [np.arange(length, dtype=np.int32) for length in self.lengths]
        yield "positions", np.concatenate(positions).reshape(shape)
        for spec in self._layer_specs():
            side = spec.name.rsplit(".", 1)[1]
            if side == "o_gram":
                weight = self._output_weight(int(spec.name.split(".")[1]))
                yield spec.name, output_gram(weight, *spec.shape[:2])
            else:
                spool = self._done.spools[spec.name]
                yield spec.name, hand_out(spool, self.lengths, self.options.dtype, spec.name)

    def close(self) -> None:
        """Remove the scratch files, unless they lie in a folder that was given."""
        if self._own_dir is not None:
            shutil.rmtree(self._own_dir, ignore_errors=True)

    def __enter__(self) -> TransformersSource:
        """The source itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @property
    def _done(self) -> Prefill:
        if self._prefill is None:
            raise InputError(f"{self.ref.model}: nothing was computed yet; call run() first")
        return self._prefill

    def _output_weight(self, index: int) -> Any:
        values, queries = (self._done.spools[f"layers.{index}.{side}"].layout for side in "vq")
        if values is None or queries is None or index not in self._modules:
            return None
        return output_weight(self._modules[index], queries.heads * values.dim)

    def _per_sequence(self) -> list[NDArray[np.int32]]:
        return [np.asarray(sequence, np.int32) for sequence in self.sequences]

    def _layer_specs(self) -> Iterator[TensorSpec]:
        batch, seq_len = packed_shape(self.lengths)
        for index in sorted(self.plan.kinds):
            shapes = self._real_shapes(index) if self._prefill else self._promised_shapes(index)
            for side, (heads, dim) in shapes.items():
                shape = (batch, heads, seq_len, dim)
                yield TensorSpec(f"layers.{index}.{side}", shape, self.options.dtype)
            if self.options.queries and (
                self._prefill is None or self._output_weight(index) is not None
            ):
                heads, dim = shapes["v"]
                yield TensorSpec(f"layers.{index}.o_gram", (heads, dim, dim), "float32")

    def _real_shapes(self, index: int) -> dict[str, tuple[int, int]]:
        shapes = {}
        for side in "kvq" if self.options.queries else "kv":
            layout = self._done.spools[f"layers.{index}.{side}"].layout
            if layout is not None:
                shapes[side] = (layout.heads, layout.dim)
        return shapes

    def _promised_shapes(self, index: int) -> dict[str, tuple[int, int]]:
        config = self.config.get_text_config(decoder=True)
        heads = int(config.num_attention_heads)
        kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        shapes = {"k": (kv_heads, dim), "v": (kv_heads, dim)}
        return {**shapes, "q": (heads, dim)} if self.options.queries else shapes

    def _provenance(self) -> dict[str, Any]:
        tokens = np.concatenate(self._per_sequence())
        config = self.config.get_text_config(decoder=True)
        heads = int(config.num_attention_heads)
        data: dict[str, Any] = {
            "kind": "transformers",
            "model": self.ref.model,
            "revision": self.ref.revision,
            "architecture": str(config.model_type),
            "config_sha256": hf_model.config_sha256(self.config),
            "tokenizer_sha256": self._tokenizer_sha256,
            "tokens_sha256": tokens_sha256(tokens),
            "num_tokens": int(tokens.size),
            "sequence_lengths": list(self.lengths),
            "positions": [[[0, length]] for length in self.lengths],  # runs: first, count
            "k": "after RoPE",
            "gqa_ratio": heads // int(getattr(config, "num_key_value_heads", None) or heads),
            "layer_kinds": {str(i): kind for i, kind in self.plan.kinds.items()},
            "windows": {str(i): window for i, window in self.plan.windows.items()},
            "skipped_layers": {str(i): reason for i, reason in self.plan.skipped.items()},
            "compute_dtype": self.options.compute_dtype,
            "chunk_size": self.options.chunk_size,
        }
        if self._prefill is not None:
            data["rope"] = _grouped(self._prefill.state.ropes)
            if self.options.queries:
                data["attention"] = _grouped(self._prefill.state.facts)
        return data


def _grouped(by_layer: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Layers of equal entries together: ``[{"layers": [0, 1], ...}]``; the largest error stays."""
    groups: dict[str, dict[str, Any]] = {}
    for layer, entry in by_layer.items():
        rule = {key: value for key, value in entry.items() if key != "error"}
        group = groups.setdefault(json.dumps(rule, sort_keys=True), {"layers": [], **rule})
        group["layers"].append(int(layer))
        if "error" in entry:
            group["error"] = _larger(group.get("error"), entry["error"])
    return list(groups.values())


def _larger(a: float | None, b: float | None) -> float | None:
    return max((x for x in (a, b) if x is not None), default=None)
