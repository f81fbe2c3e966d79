"""What a model loses: P is the next-token distribution of the float run, Q of the quantized."""

from tqcli.report.figures.figure import Figure, group

_BOTH = ("score", "compare")

FIGURES = (
    *group(
        "model/divergence.py",
        ("score",),
        Figure("kl_mean", "mean over positions of KL(P ‖ Q)", "nats", "≥ 0", ".3g", 1,
               reports=_BOTH),
        Figure("kl_se", "standard error of kl mean, positions taken for independent", "nats",
               "≥ 0", ".1g", 3, reports=_BOTH),
        Figure("kl_median", "median over positions of KL(P ‖ Q)", "nats", "≥ 0", ".2g", 5),
        Figure("kl_p90", "90th percentile over positions", "nats", "≥ 0", ".2g", 6),
        Figure("kl_p99", "99th percentile over positions", "nats", "≥ 0", ".2g", 3),
        Figure("kl_p999", "99.9th percentile over positions", "nats", "≥ 0", ".2g", 6),
        Figure("kl_max", "largest KL(P ‖ Q) of a position", "nats", "≥ 0", ".2g", 5),
        Figure("same_top1", "share of positions where P and Q have the same likeliest token", "",
               "0 to 1", ".1%", 2, reports=_BOTH),
        Figure("perplexity", "exp of the mean of -ln Q(next token)", "", "≥ 1", ".4g", 6,
               reports=_BOTH),
        Figure("perplexity_float", "the same of P", "", "≥ 1", ".4g", 6),
        Figure("perplexity_ratio", "perplexity / perplexity float", "", "> 0", ".4f", 1,
               reports=_BOTH),
        Figure("elements_written", "values of K and V that the model wrote", "values", "≥ 0", "d",
               6),
        Figure("elements_replaced", "of these, the ones that quantization changed", "values",
               "≥ 0", "d", 6),
        Figure("replaced", "elements replaced / elements written", "", "0 to 1", ".1%", 6),
        Figure("logit_change", "largest difference of a logit between the runs", "logit", "≥ 0",
               ".2g", 6),
    ),
    *group(
        "model/score.py",
        ("score",),
        Figure("bits_k", "bits per value of K", "bits", "> 0", ".4g", 6),
        Figure("bits_v", "bits per value of V", "bits", "> 0", ".4g", 6),
    ),
)  # fmt: skip
