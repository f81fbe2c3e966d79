"""A dump with queries against what a cache format makes of it, as attention sees it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError, UsageError
from tqcli.kernels import choose
from tqcli.kv.dump import Dump
from tqcli.metrics.attention import SINKS, attend
from tqcli.metrics.attention_parts import Keys
from tqcli.metrics.attention_stats import AttentionStats, merged
from tqcli.metrics.causal import Ints, Span, sample_positions
from tqcli.pipeline.attention_layer import (
    Layer,
    decoded_head,
    plan_layer,
    projections,
    read_head,
)
from tqcli.pipeline.attention_result import AttentionEvaluation, LayerAttention
from tqcli.pipeline.evaluate import Candidate
from tqcli.pipeline.pieces import Cleaner, Nonfinite, Progress, no_progress

# Pairs of a query and a key that one layer may cost by default: about a second on one core.
PAIRS = 1 << 25
# Fewer positions than this say little about a layer, whatever they cost.
LEAST_POSITIONS = 128
# Not a seed that any rotation is made from.
SAMPLE_SEED = 20_260_409


@dataclass(frozen=True)
class AttentionOptions:
    """What is measured.

    Parameters
    ----------
    positions : int or None
        Query positions per layer, drawn at random where there are more; 0 for all; None for as
        many as :data:`PAIRS` allows.
    sinks : int
        Tokens at the start of each sequence that are reported by themselves.
    """

    positions: int | None = None
    sinks: int = SINKS

    def __post_init__(self) -> None:
        """Refuse negative numbers."""
        if (self.positions or 0) < 0 or self.sinks < 0:
            raise UsageError("--queries and --sinks: 0 or a positive number is legal")


def evaluate_attention(
    dump: Dump,
    candidate: Candidate,
    options: AttentionOptions | None = None,
    *,
    layers: list[int] | None = None,
    nonfinite: Nonfinite = "error",
    progress: Progress = no_progress,
) -> AttentionEvaluation:
    """Measure what a candidate does to the attention of every layer that has queries.

    Parameters
    ----------
    dump : Dump
        In the original domain, with ``layers.{i}.q``.
    candidate : Candidate
    options : AttentionOptions, optional
    layers : list of int, optional
        Only these.
    nonfinite : {"error", "zero", "skip"}
        Here, a skipped vector counts as zero.
    progress : callable
        Called with the bytes of K and V read since the last call.

    Raises
    ------
    InputError
        If queries do not fit their keys, or a value is not finite.
    """
    options = options or AttentionOptions()
    result = AttentionEvaluation()
    for index in dump.layers if layers is None else layers:
        layer = plan_layer(dump, index, options.sinks)
        if isinstance(layer, str):
            result.missing[index] = layer
            continue
        chosen = sample_positions(layer.positions, _wanted(layer, options), SAMPLE_SEED)
        jobs = _jobs(dump, layer, candidate, chosen, Cleaner(nonfinite), progress)
        result.layers[index] = LayerAttention(
            merged(_in_threads(jobs)), chosen.size, layer.positions, layer.gram is not None
        )
        result.notes += layer.notes
    return result


def require_queries(dump: Dump) -> None:
    """Refuse a dump that no attention can be measured on."""
    if not any(tensor.side == "q" for tensor in dump):
        raise InputError(
            f"{dump.path}: no queries (layers.N.q) in it; dump it again with tq dump --queries"
        )


def _wanted(layer: Layer, options: AttentionOptions) -> int | None:
    if options.positions is not None:
        return options.positions or None
    share = PAIRS / max(layer.pairs, 1)
    return None if share >= 1 else max(int(share * layer.positions), LEAST_POSITIONS)


def _jobs(
    dump: Dump,
    layer: Layer,
    candidate: Candidate,
    chosen: Ints,
    cleaner: Cleaner,
    progress: Progress,
) -> Iterator[partial[AttentionStats]]:
    """Work on one KV head of one sequence at a time; files are read here, in one thread."""
    batch, heads, seq_len, _ = layer.k.shape
    project, group = projections(layer), layer.group
    for row in range(batch * heads):
        sequence, head = divmod(row, heads)
        k, v = (read_head(tensor, row, cleaner) for tensor in (layer.k, layer.v))
        k_new = decoded_head(dump, layer.k, candidate, row, k)
        v_new = decoded_head(dump, layer.v, candidate, row, v)
        queries = [read_head(layer.q, row * group + at, cleaner) for at in range(group)]
        own = chosen[chosen // seq_len == sequence] % seq_len
        for number, span in enumerate(layer.spans):
            positions = own[(own >= span.start) & (own < span.stop)]
            if positions.size:
                yield partial(
                    _attend,
                    [part[span.start : span.stop] for part in (k, k_new, v, v_new)],
                    np.stack([part[positions] for part in queries]),
                    layer,
                    span,
                    positions - span.start,
                    None if project is None else project[head],
                    sequence * len(layer.spans) + number,
                )
        progress(k.nbytes + v.nbytes)


def _attend(
    kv: list[NDArray[Any]],
    queries: NDArray[Any],
    layer: Layer,
    span: Span,
    positions: Ints,
    project: NDArray[np.float64] | None,
    key: int,
) -> AttentionStats:
    k, k_new, v, v_new = kv
    # A cap on the scores is no function of differences: keys must stay where they are.
    shift = layer.scoring.softcap is None
    keys = Keys.of(k, k_new, v, v_new, shift=shift, project=project)
    return attend(queries, keys, span, positions, layer.scoring, key)


def _in_threads(jobs: Iterator[partial[AttentionStats]]) -> list[AttentionStats]:
    """Results in the order of the jobs, with no more of them waiting than there are threads."""
    count = choose.threads()
    if count == 1:
        return [job() for job in jobs]
    done, waiting = [], []
    with ThreadPoolExecutor(count, thread_name_prefix="tq-attention") as pool:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > count:
                done.append(waiting.pop(0).result())
        return done + [one.result() for one in waiting]
