"""What a type does to the vectors of K and V: x is a vector, x̂ what it decodes to."""

from tqcli.report.figures.figure import Figure, group

_NOISE = "of the same type on 16,384 Gaussian vectors of that head_dim"

FIGURES = (
    *group(
        "metrics/stats.py",
        ("evaluate", "compare"),
        Figure("vectors", "vectors measured: heads × tokens", "vectors", "≥ 0", "d", 8),
        Figure("mse", "mean of (x̂ - x)² over all values", "value²", "≥ 0", ".3g", 8),
        Figure("nmse", "Σ‖x̂ - x‖² / Σ‖x‖², sums over vectors", "", "≥ 0", ".3g", 3),
        Figure("cosine_mean", "mean over vectors of x·x̂ / (‖x‖ ‖x̂‖)", "", "-1 to 1", ".4f", 4,
               also=("cosine",)),
        Figure("cosine_p50", "median over vectors of the cosine", "", "-1 to 1", ".4f", 8),
        Figure("cosine_p1", "1st percentile over vectors of the cosine", "", "-1 to 1", ".4f", 5,
               also=("p1",)),
        Figure("cosine_p01", "0.1th percentile over vectors of the cosine", "", "-1 to 1", ".4f",
               7, also=("p01",)),
        Figure("cosine_min", "least cosine of a vector", "", "-1 to 1", ".4f", 8),
        Figure("max_abs_error", "max |x̂ - x| over all values", "value", "≥ 0", ".3g", 8),
    ),
    *group(
        "metrics/null.py",
        ("evaluate", "compare"),
        Figure("null_cosine_mean", f"cosine mean {_NOISE}", "", "-1 to 1", ".4f", 7,
               heading="gaussian cosine mean"),
        Figure("null_cosine_p1", f"cosine p1 {_NOISE}", "", "-1 to 1", ".4f", 8,
               heading="gaussian cosine p1"),
        Figure("null_nmse", f"nmse {_NOISE}", "", "≥ 0", ".3g", 6, heading="gaussian nmse"),
        Figure("cosine_z", "(cosine mean - gaussian cosine mean) / its standard error",
               "standard errors", "any", "+.0f", 8),
    ),
    *group(
        "metrics/stats.py",
        ("evaluate", "compare"),
        Figure("centred_nmse", "nmse of K after the mean over the tokens of a head is taken from "
               "x and from x̂: a constant added to all keys changes no softmax", "", "≥ 0", ".3g",
               2),
        Figure("offset_ratio", "length of that mean of K / RMS length of what is left of K", "",
               "≥ 0", ".2f", 5),
        Figure("kurtosis", "excess kurtosis of K in the rotated domain; 0 for Gaussian values",
               "", "≥ -2", "+.2f", 7),
    ),
    *group(
        "pipeline/compare.py",
        ("compare",),
        Figure("codebook_excess", "distortion of the type's codebook on Gaussian values over "
               "that of the best codebook of as many levels, minus 1", "", "≥ 0", "+.0%", 7),
        Figure("worse_than_first", "share of vectors with a larger error than under the first "
               "type", "", "0 to 1", ".1%", 7),
        Figure("worst_layer", "layer with the largest worst layer error", "", "≥ 0", "d", 4),
        Figure("worst_layer_error", "its output error; without queries its centred nmse (K) or "
               "nmse (V)", "", "≥ 0", ".3g", 6),
    ),
    *group(
        "metrics/verdict.py",
        ("evaluate", "compare"),
        Figure("verdict", "`fine`, `degraded` or `collapse`, by thresholds of docs/measures.md",
               rank=0),
        Figure("verdict_by", "the figure that decided the verdict, and its threshold",
               style="prose", rank=8),
    ),
    *group(
        "codecs/base.py",
        ("evaluate", "compare", "quantize", "unpack", "inspect", "score"),
        Figure("bits_per_value", "8 × stored bytes / values, norms and padding included", "bits",
               "> 0", ".4g", 4, also=("bits",)),
    ),
    *group(
        "plan/bits.py",
        ("quantize", "score"),
        *(
            Figure(f"bits_{name}", f"bits per value of one text of {length} tokens: kept tokens "
                   "and the mean weigh less in a longer one", "bits", "> 0", ".4g", 5)
            for name, length in (("1k", "1,024"), ("8k", "8,192"), ("128k", "131,072"))
        ),
    ),
    *group(
        "plan/center.py",
        ("quantize", "score"),
        Figure("mean", "where the mean of K comes from that +center takes away", rank=6),
    ),
)  # fmt: skip
