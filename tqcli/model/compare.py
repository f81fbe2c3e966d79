"""Several cache types with one model, beside the measures that a dump gives without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqcli.metrics.rank import rank_correlations
from tqcli.model.corpus import Corpus
from tqcli.model.loop import CHUNK_SIZE
from tqcli.model.score import PREFIX, Progress, Row, score
from tqcli.model.subject import load_subject
from tqcli.plan.plan import Plan


def score_plans(
    source: str,
    plans: Sequence[Plan],
    *,
    corpus: Corpus | None = None,
    mode: str = PREFIX,
    compute_dtype: str = "float32",
    device: str = "cpu",
    chunk_size: int = CHUNK_SIZE,
    state: Path | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> list[Row]:
    """Score cache plans with a model.

    Parameters
    ----------
    source : str
        Model folder, hub id, ``.gguf`` file or alias.
    plans : sequence of Plan
    corpus : Corpus, optional
        Default the built-in texts.
    mode : {"prefix", "on-the-fly"}
    state : Path, optional
        File that an interrupted run continues from.
    progress : callable, optional
        Called with the tokens done since the last call.

    Returns
    -------
    list of dict
        A row for each of `plans`, in order: ``name``, ``k``, ``v``, ``kl_mean``, ``kl_se``,
        ``same_top1``, ``perplexity_ratio`` and the other figures of ``tq score``.

    Raises
    ------
    UsageError
        An unknown type or option, or the extra ``tqcli[hf]`` is not installed.
    InputError
        No such model, or too little text.
    ProofError
        The run did not prove that it measured something.
    """
    subject = load_subject(
        source, corpus or Corpus(), compute_dtype=compute_dtype, device=device, note=note
    )
    scores = score(
        subject, plans, modes=(mode,), chunk_size=chunk_size, state=state, progress=progress
    )
    rows = dict(zip((plan.identity() for plan in scores.plans), scores.rows(), strict=True))
    return [rows[plan.identity()] for plan in plans]


# What the model felt, and the cheap measures that a dump gives, for either side.
MODEL_FIGURES = ("kl_mean", "kl_se", "same_top1", "perplexity", "perplexity_ratio")
CHEAP = (
    "nmse",
    "cosine_mean",
    "cosine_p1",
    "centred_nmse",
    "attention_kl",
    "output_error",
)


def join(
    rows: Sequence[dict[str, Any]], scores: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Put the model's figures into the rows of their type, and rank the cheap measures.

    Parameters
    ----------
    rows : sequence of dict
        Rows of a comparison, with ``name`` and ``side``; changed in place.
    scores : sequence of mapping
        What :func:`score_plans` gave, one for each of `names`.
    names : sequence of str
        Names of the types.

    Returns
    -------
    list of dict
        Rank correlation of each cheap measure of each side with the model's KL, as
        :func:`tqcli.metrics.rank.rank_correlations` gives them; measures are ``k.nmse`` and so on,
        and ``output_error_both``.
    """
    flat: list[dict[str, Any]] = []
    for name, score_row in zip(names, scores, strict=True):
        figures = {key: score_row.get(key) for key in MODEL_FIGURES}
        one: dict[str, Any] = {"kl_mean": figures["kl_mean"]}
        for row in rows:
            if row["name"] == name:
                row |= figures
                one |= {f"{row['side']}.{key}": row.get(key) for key in CHEAP}
                one["output_error_both"] = row.get("output_error_both")
        flat.append(one)
    return rank_correlations(flat, "kl_mean")
