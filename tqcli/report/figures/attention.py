"""What quantized K and V do to attention (docs/measures.md): o is the output, Δo its error."""

from dataclasses import replace

from tqcli.report.figures.figure import Figure, group

_REPORTS = ("evaluate", "compare")
_OF_K = (
    Figure("score_rmse", "RMS change of the scaled scores, after its mean over the keys of a "
           "query is taken away", "score", "≥ 0", ".2g", 6),
    Figure("attention_kl", "mean over queries of KL(float weights ‖ quantized weights)", "nats",
           "≥ 0", ".2g", 4),
    Figure("attention_kl_p99", "99th percentile over queries of that KL", "nats", "≥ 0", ".2g", 7),
    Figure("attention_kl_max", "largest KL of a query", "nats", "≥ 0", ".2g", 8),
    Figure("top1", "share of queries whose largest weight stays on its key", "", "0 to 1", ".0%",
           5),
)  # fmt: skip
_OF_BOTH = (
    Figure("output_error", "Σ‖Δo‖² / Σ‖o‖² over queries, this side alone quantized; over all "
           "layers their sum", "", "≥ 0", ".2g", 1),
    Figure("output_error_both", "the same with K and V quantized", "", "≥ 0", ".2g", 5),
)  # fmt: skip


def _variants(figures: tuple[Figure, ...], tails: dict[str, str]) -> tuple[Figure, ...]:
    return tuple(
        replace(f, key=f"{f.key}_{tail}", formula=f"{f.title}: {words}", rank=8)
        for tail, words in tails.items()
        for f in figures
    )


_PARTS = {
    "sinks": "only the first tokens of a sequence (`--sinks`) carry an error",
    "rest": "only the tokens after those carry an error",
}
_BOUNDS = {
    "low": "lower end of the 95 % bootstrap interval over positions, where a sample was taken",
    "high": "upper end of that interval",
}

FIGURES = group(
    "metrics/attention_stats.py",
    _REPORTS,
    *_OF_K,
    *_OF_BOTH,
    *_variants((*_OF_K, *_OF_BOTH), _PARTS),
    *_variants((_OF_K[1], *_OF_BOTH), _BOUNDS),
    Figure(
        "positions",
        "token positions measured: of queries (evaluate, compare), of next tokens (score)",
        "positions",
        "≥ 0",
        "d",
        8,
        reports=(*_REPORTS, "score"),
    ),
)
