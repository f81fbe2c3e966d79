"""A dump with queries against what a cache format makes of it, as attention sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tqcli.errors import InputError, UsageError
from tqcli.kv.dump import Dump
from tqcli.metrics.attention import SINKS
from tqcli.metrics.attention_stats import AttentionStats, merged
from tqcli.metrics.causal import Ints, sample_positions
from tqcli.pipeline.attention_jobs import jobs, run
from tqcli.pipeline.attention_layer import Layer, plan_layer
from tqcli.pipeline.attention_result import AttentionEvaluation, LayerAttention
from tqcli.pipeline.evaluate import Candidate
from tqcli.pipeline.pieces import Nonfinite, Progress, no_progress

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
    """Measure what one candidate does; :func:`compare_attention` with a single one."""
    (result,) = compare_attention(
        dump, [candidate], options, layers=layers, nonfinite=nonfinite, progress=progress
    )
    return result


def compare_attention(
    dump: Dump,
    candidates: Sequence[Candidate],
    options: AttentionOptions | None = None,
    *,
    layers: list[int] | None = None,
    nonfinite: Nonfinite = "error",
    progress: Progress = no_progress,
) -> list[AttentionEvaluation]:
    """Measure what candidates do to the attention of every layer that has queries.

    K, V and Q are read once, and attention without an error is computed once for as many
    candidates as fit in memory together. The figures of each are those that it has alone.

    Parameters
    ----------
    dump : Dump
        In the original domain, with ``layers.{i}.q``.
    candidates : sequence of Candidate
    options : AttentionOptions, optional
    layers : list of int, optional
        Only these.
    nonfinite : {"error", "zero", "skip"}
        Here, a skipped vector counts as zero.
    progress : callable
        Called with the bytes of K and V decoded since the last call, those of every candidate.

    Returns
    -------
    list of AttentionEvaluation
        One for each of `candidates`.

    Raises
    ------
    InputError
        If queries do not fit their keys, or a value is not finite.
    """
    options = options or AttentionOptions()
    results = [AttentionEvaluation() for _ in candidates]
    plans: dict[int, tuple[Layer, Ints]] = {}
    for index in dump.layers if layers is None else layers:
        layer = plan_layer(dump, index, options.sinks)
        if isinstance(layer, str):
            for result in results:
                result.missing[index] = layer
        else:
            wanted = _wanted(layer, options)
            plans[index] = layer, sample_positions(layer.positions, wanted, SAMPLE_SEED)
    found: dict[tuple[int, int], list[AttentionStats]] = {}
    for index, first, stats in run(jobs(dump, plans, candidates, nonfinite, progress)):
        for at, one in enumerate(stats, start=first):
            found.setdefault((index, at), []).append(one)
    for at, result in enumerate(results):
        for index, (layer, chosen) in plans.items():
            result.layers[index] = LayerAttention(
                merged(found.get((index, at), [])),
                chosen.size,
                layer.positions,
                layer.gram is not None,
            )
            result.notes += layer.notes
    return results


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
