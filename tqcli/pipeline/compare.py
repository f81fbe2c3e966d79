"""Several cache types on one dump, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqcli.codebook import distortion_on_gaussian, lloyd_max
from tqcli.codecs.turbo import TurboCodec
from tqcli.kv.dump import Dump
from tqcli.pipeline.attention import AttentionOptions, compare_attention
from tqcli.pipeline.cachetype import CacheType
from tqcli.pipeline.evaluate import Candidate, Evaluation, evaluate_all
from tqcli.pipeline.pieces import Nonfinite, Progress, no_progress
from tqcli.report.verdict import judge_all


def compare(
    dump: Dump,
    types: Sequence[tuple[CacheType, CacheType]],
    *,
    options: AttentionOptions | None = None,
    nonfinite: Nonfinite = "error",
    progress: Progress = no_progress,
) -> list[dict[str, Any]]:
    """One row for each type and side, pooled over layers.

    Parameters
    ----------
    dump : Dump
    types : sequence of (K type, V type)
        The first is what the others are held against: ``worse_than_first`` is the share of vectors
        that the first type decodes with less error.
    options : AttentionOptions or None
        None leaves attention out.
    nonfinite, progress
        As in :func:`tqcli.pipeline.evaluate.evaluate`; with attention, K and V are read twice.

    Returns
    -------
    list of dict
        The pooled row of an evaluation, judged, with ``name`` (of the pair), ``worse_than_first``,
        ``codebook_excess`` (distortion of the type's codebook on Gaussian values over that of the
        best one of as many levels, minus 1), and the layer with the largest error by the figure
        that the side is judged by: ``worst_layer``, ``worst_layer_error``.
    """
    rows: list[dict[str, Any]] = []
    candidates = [Candidate(k, v) for k, v in types]
    results = evaluate_all(dump, candidates, nonfinite=nonfinite, progress=progress)
    attention = []
    if options is not None:
        attention = compare_attention(
            dump, candidates, options, nonfinite=nonfinite, progress=progress
        )
    for at, ((k, v), result) in enumerate(zip(types, results, strict=True)):
        every = result.rows()
        if attention:
            attention[at].extend(every)
        judge_all(every)
        for row in every:
            if row["layer"] != "all":
                continue
            side = row["side"]
            row["name"] = k.name if k == v else f"{k.name}/{v.name}"
            row["codebook_excess"] = _codebook_excess(result, side)
            row["worse_than_first"] = _worse_than_first(result, row) if at else None
            row |= _worst([r for r in every if r["side"] == side and r["layer"] != "all"])
            rows.append(row)
    return rows


def _worst(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The layer with the largest error in what the side is judged by."""
    stand_in = "centred_nmse" if rows[0]["side"] == "k" else "nmse"
    for measure in ("output_error", stand_in):
        known = [row for row in rows if row.get(measure) is not None]
        if known:
            worst = max(known, key=lambda row: row[measure])
            return {"worst_layer": worst["layer"], "worst_layer_error": worst[measure]}
    return {"worst_layer": None, "worst_layer_error": None}


def _worse_than_first(result: Evaluation, row: dict[str, Any]) -> float | None:
    worse = sum(count for (_, side), count in result.worse.items() if side == row["side"])
    return worse / row["vectors"] if row["vectors"] else None


def _codebook_excess(result: Evaluation, side: str) -> float | None:
    """Only a table tells: ggml types scale each block and have none."""
    losses = [
        _loss(codec)
        for (_, own), made in result.codecs.items()
        for codec in made
        if own == side and isinstance(codec, TurboCodec)
    ]
    return max(losses) if losses else None


def _loss(codec: TurboCodec) -> float:
    book = codec.codebook
    _, best = lloyd_max("gaussian", book.bits)
    return distortion_on_gaussian(book) / best - 1
