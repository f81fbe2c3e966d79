"""What files, codebooks, types and kernels are; figures about figures."""

from tqcli.report.figures.figure import BYTES, PROSE, Figure, group

_SHAPES = ("inspect", "dump")
_TABLE = "Σ(y - ŷ)² / Σy² over values y of rotated unit vectors"

FIGURES = (
    *group(
        "kv/container.py",
        _SHAPES,
        Figure("batch", "sequences", "sequences", "≥ 1", "d", 4),
        Figure("heads", "KV heads (of Q: query heads)", "heads", "≥ 1", "d", 2),
        Figure("query_heads", "query heads of the model", "heads", "≥ 1", "d", 4,
               reports=("inspect",)),
        Figure("seq_len", "tokens of a sequence", "tokens", "≥ 0", "d", 2),
        Figure("head_dim", "values of a vector: one head of one token", "values", "≥ 1", "d", 2,
               reports=("inspect", "dump", "calibrate")),
        Figure("head_dim_v", "the same of V, in models", "values", "≥ 1", "d", 4,
               reports=("inspect",)),
        Figure("bytes", "size of the tensor in the file", "bytes", "≥ 0", BYTES, 1, adds=True),
        Figure("digest", "hash of the tensor's bytes, or of a codebook's numbers", rank=6,
               reports=("inspect",)),
        Figure("gaussian_distortion", "Σ(y - ŷ)² / Σy² of the codebook on N(0, 1)", "",
               "0 to 1", ".6f", 1, reports=("inspect",)),
        Figure("levels", "centroids of the codebook", style=PROSE, rank=3, reports=("inspect",)),
    ),
    *group(
        "pipeline/quantize.py",
        ("quantize",),
        Figure("bytes_in", "bytes read", "bytes", "≥ 0", BYTES, 1, adds=True,
               reports=("quantize", "unpack")),
        Figure("bytes_out", "bytes written", "bytes", "≥ 0", BYTES, 1, adds=True,
               reports=("quantize", "unpack")),
        Figure("values", "values of the tensor: batch × heads × tokens × head_dim", "values",
               "≥ 0", "d", 6, adds=True, reports=("quantize", "unpack", "inspect")),
        Figure("vanished_vectors", "vectors too short for the stored norm: they decode to zero",
               "vectors", "≥ 0", "d", 3, adds=True),
        Figure("zeroed_values", "NaN and Inf that became zero (`--nonfinite zero`)", "values",
               "≥ 0", "d", 3, adds=True, reports=("quantize", "dump")),
        Figure("skipped_vectors", "vectors with NaN or Inf that became zero (`--nonfinite skip`)",
               "vectors", "≥ 0", "d", 3, adds=True),
    ),
    *group(
        "pipeline/unpack.py",
        ("unpack",),
        Figure("decoded_from", "cache type of the blocks", rank=0),
    ),
    *group(
        "pipeline/fit.py",
        ("fit-codebook",),
        Figure("distortion", f"{_TABLE} of the density", "", "0 to 1", ".6f", 1,
               source="codebook/exact.py"),
        Figure("distortion_train", f"{_TABLE}, on the tokens that the codebook was fitted to", "",
               "0 to 1", ".6f", 2),
        Figure("distortion_held_out", "the same on every fifth token, which was held out", "",
               "0 to 1", ".6f", 1),
        Figure("distortion_gaussian", "the same under the exact Gaussian codebook of as many "
               "levels", "", "0 to 1", ".6f", 2),
        Figure("gain", "1 - distortion held out / distortion gaussian", "", "≤ 1", "+.2%", 1),
        Figure("weight", "values (or their energy) that the codebook was fitted to", "", "> 0",
               ".4g", 6),
    ),
    *group(
        "plan/calibration.py",
        ("calibrate",),
        Figure("num_kv_heads", "KV heads of the layer", "heads", "≥ 1", "d", 2),
        Figure("rope", "kind of RoPE that the mean was taken before", rank=2),
        Figure("tokens", "tokens in the mean of K", "tokens", "≥ 0", "d", 4),
        Figure("texts", "texts in the mean of K", "texts", "≥ 0", "d", 4),
        Figure("mean_norm", "RMS over KV heads of the length of the mean of K", "value", "≥ 0",
               ".3g", 1),
        Figure("residual", "share of K's power that is left on texts that are not in the mean", "",
               "≥ 0", ".3f", 1),
        Figure("query_texts", "texts whose queries count", "texts", "≥ 0", "d", 3),
        Figure("output_gram", "1 where it holds the Gram matrix of the output projection", "",
               "0 or 1", "d", 5),
    ),
    *group(
        "codecs/base.py",
        ("types",),
        Figure("values_per_block", "values that a block stores", "values", "≥ 1", "d", 1),
        Figure("block_bytes", "bytes of a block", "bytes", "≥ 1", "d", 1),
        *(
            Figure(f"bits_{dim}", f"bits per value at head_dim {dim}", "bits", "> 0", ".4g", 1)
            for dim in (64, 80, 128, 256)
        ),
    ),
    *group(
        "kernels/measure.py",
        ("bench",),
        Figure("size_bytes", "bytes of the array of floats or codes", "bytes", "≥ 0", BYTES, 6),
        Figure("ratio_to_memcpy", "values per second / those of memcpy of float32 on one thread",
               "", "> 0", ".3f", 1),
        Figure("values_per_second", "values of vectors per second, median of the repeats",
               "values/s", "> 0", ".3g", 2),
    ),
    *group(
        "report/figures",
        ("figures",),
        Figure("figure", "key in JSON and CSV", rank=0),
        Figure("heading", "in tables: the key with spaces for underscores", rank=6),
        Figure("formula", "how it is computed, or what it says", style=PROSE, rank=1),
        Figure("unit", "empty for ratios and text", rank=2),
        Figure("range", "values that occur", rank=3),
        Figure("source", "module of tqcli that computes it", rank=4),
        Figure("reports", "commands in whose reports it occurs", rank=5),
    ),
)  # fmt: skip
