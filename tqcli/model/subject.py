"""The model that is scored, with the tokens that it reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tqcli.errors import UsageError
from tqcli.model.corpus import Corpus

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Subject:
    """A loaded model and its token sequences.

    Parameters
    ----------
    model : a transformers causal language model in evaluation mode
    sequences : list of token id lists
    provenance : mapping
        JSON values that say what both are.
    """

    model: Any
    sequences: list[list[int]]
    provenance: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of what the figures depend on beside the plan."""
        return hashlib.sha256(
            json.dumps(dict(self.provenance), sort_keys=True).encode()
        ).hexdigest()


def load_subject(
    source: str,
    corpus: Corpus,
    *,
    revision: str | None = None,
    compute_dtype: str = "float32",
    device: str = "cpu",
    note: Callable[[str], None] | None = None,
) -> Subject:
    """Find a model, cut the texts with its tokenizer, and load it.

    Parameters
    ----------
    source : str
        Model folder, hub id, ``.gguf`` file or alias, as in ``tq dump``.
    corpus : Corpus
    revision : str, optional
        On the hub.
    compute_dtype : {"float32", "bfloat16", "float16"}
    device : str
        A PyTorch device.
    note : callable, optional
        Called with a sentence for the user.

    Raises
    ------
    UsageError
        The extra ``tqcli[hf]`` is not installed, or an option is not legal.
    InputError
        No such model, or too little text.
    """
    from tqcli.sources.base import tokens_sha256
    from tqcli.sources.hf import model as hf_model

    if compute_dtype not in DTYPES:
        raise UsageError(f"--compute-dtype: {compute_dtype!r}; legal are {', '.join(DTYPES)}")
    ref = hf_model.resolve(source, revision=revision, note=note)
    hf_model.quiet()
    config = hf_model.load_config(ref)
    longest = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    if longest is not None and corpus.context > longest:
        raise UsageError(
            f"-c/--ctx-size: {corpus.context}; {ref.model} reads at most {longest} tokens"
        )
    sequences = corpus.sequences(hf_model.load_tokenizer(ref))
    provenance = {
        "model": ref.model,
        "revision": ref.revision,
        "config_sha256": hf_model.config_sha256(config),
        "tokens_sha256": [tokens_sha256(sequence) for sequence in sequences],
        "context": corpus.context,
        "chunks": len(sequences),
        "compute_dtype": compute_dtype,
    }
    try:
        model = hf_model.load_model(ref, dtype=compute_dtype, device=device)
    except (RuntimeError, AssertionError) as error:  # what PyTorch says to a device it lacks
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--device {device}: {reason}; cpu is always there") from error
    return Subject(model, sequences, provenance)
