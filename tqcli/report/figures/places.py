"""Keys that say which tensor, type or run a row speaks of; they identify it."""

from tqcli.report.figures.figure import Figure, group

_FILES = ("quantize", "unpack", "dump", "inspect", "restore", "convert")

FIGURES = (
    *group(
        "kv/container.py",
        ("evaluate", "compare"),
        Figure("layer", "number of the layer, or `all` for the row over all layers", rank=0,
               reports=("evaluate", "compare", "score", "calibrate")),
        Figure("side", "`k` or `v`", rank=0),
        Figure("head", "number of the KV head; none in rows over all heads", style="d", rank=0),
        Figure("type", "cache type, dtype or kind of what the row speaks of", rank=0,
               reports=("evaluate", "compare", *_FILES, "types")),
        Figure("name", "types of K and V as they were asked for", rank=0,
               source="pipeline/compare.py", reports=("compare", "score")),
    ),
    *group(
        "plan/plan.py",
        ("score",),
        Figure("mode", "`prefix` (the first half's cache is replaced) or `on-the-fly`", rank=0),
        Figure("k", "type of K", rank=6),
        Figure("v", "type of V", rank=6),
        Figure("rules", "types of single layers (`--layer`)", rank=6),
        Figure("keep_first", "first tokens that stay float", "tokens", "≥ 0", "d", 6),
        Figure("keep_last", "last tokens that stay float", "tokens", "≥ 0", "d", 6),
    ),
    *group(
        "kv/container.py",
        _FILES,
        Figure("tensor", "name of the tensor, or `all` for the sum over the tensors", rank=0),
    ),
    *group(
        "pipeline/fit.py",
        ("fit-codebook",),
        Figure("table", "where the codebook applies: `*`, a side, a layer or a head", rank=0),
    ),
    *group(
        "kernels/measure.py",
        ("bench",),
        Figure("operation", "what was timed", rank=0),
        Figure("kernel", "implementation; none for plain memory operations", rank=0),
        Figure("dtype", "of the floats or codes", rank=0),
        Figure("threads", "threads that shared the work", "threads", "≥ 1", "d", 0),
        Figure("queries", "query vectors: of the layer (evaluate, compare), a key (bench)",
               "queries", "≥ 0", "d", 2, reports=("bench", "evaluate", "compare")),
    ),
)  # fmt: skip
