"""Attention measures of a whole dump as jobs for threads: one KV head of one sequence each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli import blas
from tqcli.kernels import choose
from tqcli.kv.dump import Dump
from tqcli.metrics.attention import attend
from tqcli.metrics.attention_keys import Error, Keys
from tqcli.metrics.attention_stats import AttentionStats
from tqcli.metrics.causal import Ints, Span
from tqcli.pipeline.attention_layer import Layer, decoded_head, projections, read_head
from tqcli.pipeline.evaluate import Candidate
from tqcli.pipeline.pieces import Cleaner, Nonfinite, Progress

# Decoded K and V, and their errors, that may be held at a time.
CANDIDATE_BYTES = 1 << 28
_BYTES_A_VALUE = 8  # a decoded float32 and its error

# Gives a result for each candidate; with it, its layer and the first of these candidates.
Work = partial[list[AttentionStats]]
Job = tuple[int, int, Work]


def _together(layer: Layer) -> int:
    """How many candidates may be held at a time; each has K and V of every job in flight."""
    values = layer.k.shape[2] * (layer.k.shape[3] + layer.v.shape[3])
    return max(CANDIDATE_BYTES // (values * _BYTES_A_VALUE * (choose.threads() + 2)), 1)


def jobs(
    dump: Dump,
    plans: Mapping[int, tuple[Layer, Ints]],
    candidates: Sequence[Candidate],
    nonfinite: Nonfinite,
    progress: Progress,
) -> Iterator[Job]:
    """Work on one KV head of one sequence at a time; files are read here, in one thread."""
    for index, (layer, chosen) in plans.items():
        step = _together(layer)
        for first in range(0, len(candidates), step):
            group = candidates[first : first + step]
            for work in _heads(dump, layer, group, chosen, Cleaner(nonfinite), progress):
                yield index, first, work


def _heads(
    dump: Dump,
    layer: Layer,
    candidates: Sequence[Candidate],
    chosen: Ints,
    cleaner: Cleaner,
    progress: Progress,
) -> Iterator[Work]:
    batch, heads, seq_len, _ = layer.k.shape
    project, group = projections(layer), layer.group
    for row in range(batch * heads):
        sequence, head = divmod(row, heads)
        k, v = (read_head(tensor, row, cleaner) for tensor in (layer.k, layer.v))
        decoded = []
        for candidate in candidates:
            k_new = decoded_head(dump, layer.k, candidate, row, k)
            v_new = decoded_head(dump, layer.v, candidate, row, v)
            decoded.append((k_new, v_new))
            progress(k.nbytes + v.nbytes)
        queries = [read_head(layer.q, row * group + at, cleaner) for at in range(group)]
        own = chosen[chosen // seq_len == sequence] % seq_len
        for number, span in enumerate(layer.spans):
            positions = own[(own >= span.start) & (own < span.stop)]
            if positions.size:
                tokens = slice(span.start, span.stop)
                yield partial(
                    _attend,
                    k[tokens],
                    v[tokens],
                    [(k_new[tokens], v_new[tokens]) for k_new, v_new in decoded],
                    np.stack([part[positions] for part in queries]),
                    layer,
                    span,
                    positions - span.start,
                    None if project is None else project[head],
                    sequence * len(layer.spans) + number,
                )


def _attend(
    k: NDArray[Any],
    v: NDArray[Any],
    decoded: list[tuple[NDArray[Any], NDArray[Any]]],
    queries: NDArray[Any],
    layer: Layer,
    span: Span,
    positions: Ints,
    project: NDArray[np.float64] | None,
    key: int,
) -> list[AttentionStats]:
    # A cap on the scores is no function of differences: keys must stay where they are.
    shift, sinks = layer.scoring.softcap is None, layer.scoring.sinks
    errors = [
        Error.of(k, k_new, v, v_new, sinks=sinks, shift=shift, project=project)
        for k_new, v_new in decoded
    ]
    keys = Keys.of(k, v, shift=shift, project=project)
    return attend(queries, keys, errors, span, positions, layer.scoring, key)


def run(jobs: Iterator[Job]) -> Iterator[tuple[int, int, list[AttentionStats]]]:
    """Results in the order of the jobs, with no more of them waiting than there are threads.

    Jobs take turns where BLAS has threads of its own.
    """
    count = 1 if blas.is_threaded() else choose.threads()
    if count == 1:
        for index, first, work in jobs:
            yield index, first, work()
        return
    waiting: deque[tuple[int, int, Future[list[AttentionStats]]]] = deque()
    with ThreadPoolExecutor(count, thread_name_prefix="tq-attention") as pool:
        for index, first, work in jobs:
            waiting.append((index, first, pool.submit(work)))
            if len(waiting) > count:
                index, first, done = waiting.popleft()
                yield index, first, done.result()
        for index, first, done in waiting:
            yield index, first, done.result()
