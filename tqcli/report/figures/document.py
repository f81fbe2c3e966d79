"""Keys of the JSON documents beside the rows; those of nested objects after a dot."""

from tqcli.report.figures.figure import Figure, group

ALL = (
    "evaluate",
    "compare",
    "score",
    "quantize",
    "unpack",
    "dump",
    "inspect",
    "restore",
    "convert",
    "fit-codebook",
    "calibrate",
    "types",
    "bench",
    "figures",
)

FIGURES = (
    *group(
        "report/result.py",
        ALL,
        Figure("schema", "name and version of the document, as in `tq.evaluate/1`"),
        Figure("tq", "version of tq"),
        Figure("numpy", "version of NumPy"),
        Figure("python", "version of Python"),
        Figure("kernel", "kernel that ran"),
        Figure("command", "command line"),
        Figure("inputs", "`path` and `fingerprint` of what was read"),
        Figure("rows", "one object a row, with the keys below"),
        Figure("notes", "sentences below the table"),
        Figure("output", "path by which the result is opened",
               reports=("quantize", "unpack", "dump", "restore", "convert", "fit-codebook",
                        "calibrate")),
        Figure("source", "where the tensors come from: model, tokens, RoPE and so on",
               reports=("dump", "score")),
    ),
    *group(
        "plan/plan.py",
        ("evaluate", "quantize"),
        Figure("plan", "the cache plan; null where a stored cache was measured"),
    ),
    *group(
        "pipeline/inspect.py",
        ("inspect",),
        Figure("kind", "what the file is"),
        Figure("metadata", "its metadata, as it stands in the file"),
        Figure("accepted", "with `--for`: whether the server would load the file"),
    ),
    *group(
        "sources/llamacpp/target.py",
        ("restore", "convert"),
        Figure("file", "what the save file says: kind, version, types, rotation, tokens"),
    ),
    *group(
        "pipeline/pieces.py",
        ("evaluate",),
        Figure("zeroed_values", "NaN and Inf that became zero", "values", "≥ 0"),
        Figure("skipped_vectors", "vectors with NaN or Inf that were left out", "vectors", "≥ 0"),
    ),
    *group(
        "kernels/measure.py",
        ("bench",),
        Figure("vectors", "vectors in the arrays", "vectors", "≥ 1"),
        Figure("repeats", "runs that the median is taken of", "runs", "≥ 1"),
    ),
    *group(
        "metrics/rank.py",
        ("compare",),
        Figure("ranks", "how well each measure of the dump orders the types as the model does"),
        Figure("ranks.measure", "side and key of the measure"),
        Figure("ranks.spearman", "rank correlation with the model's kl mean", "", "-1 to 1"),
        Figure("ranks.rows", "types that it is over", "types", "≥ 3"),
    ),
    *group(
        "model/score.py",
        ("score",),
        Figure("by_text", "each text by itself"),
        Figure("by_text.name", "the row's name"),
        Figure("by_text.mode", "the row's mode"),
        Figure("by_text.kl_mean", "kl mean of each text", "nats", "≥ 0"),
        Figure("sweep", "with `--sweep`: kl mean by mode and layer", "nats", "≥ 0",
               source="model/sweep.py"),
    ),
)  # fmt: skip
