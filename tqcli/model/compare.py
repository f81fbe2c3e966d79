"""Several cache types with one model, as plain rows: what ``tq compare --model`` asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tqcli.model.cacheplan import CachePlan, LayerRule, parse_type
from tqcli.model.corpus import Corpus
from tqcli.model.loop import CHUNK_SIZE
from tqcli.model.score import PREFIX, Progress, Row, score
from tqcli.model.subject import load_subject


def score_types(
    source: str,
    pairs: Sequence[tuple[str, str]],
    *,
    corpus: Corpus | None = None,
    mode: str = PREFIX,
    keep_first: int = 0,
    rules: Sequence[LayerRule] = (),
    compute_dtype: str = "float32",
    device: str = "cpu",
    chunk_size: int = CHUNK_SIZE,
    state: Path | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> list[Row]:
    """Score pairs of K type and V type with a model.

    Parameters
    ----------
    source : str
        Model folder, hub id, ``.gguf`` file or alias.
    pairs : sequence of (str, str)
        Types of K and V; K's may end in ``+center``.
    corpus : Corpus, optional
        Default the built-in texts.
    mode : {"prefix", "on-the-fly"}
    keep_first, rules
        The same for all pairs.
    state : Path, optional
        File that an interrupted run continues from.
    progress : callable, optional
        Called with the tokens done since the last call.

    Returns
    -------
    list of dict
        A row for each of `pairs`, in order: ``name``, ``k``, ``v``, ``kl_mean``, ``kl_se``,
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
    plans = [
        CachePlan(parse_type(k, "k"), parse_type(v, "v"), tuple(rules), keep_first)
        for k, v in pairs
    ]
    subject = load_subject(
        source, corpus or Corpus(), compute_dtype=compute_dtype, device=device, note=note
    )
    scores = score(
        subject, plans, modes=(mode,), chunk_size=chunk_size, state=state, progress=progress
    )
    rows = dict(zip((plan.identity() for plan in scores.plans), scores.rows(), strict=True))
    return [rows[plan.identity()] for plan in plans]
