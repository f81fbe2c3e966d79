"""What people see of each command's rows: the keys of the columns, in order.

How a key is headed, formatted and ranked stands in :mod:`tqcli.report.figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tqcli.words import spans

Keys = tuple[str, ...]

QUANTIZE: Keys = (
    "tensor", "type", "bits_per_value", "bytes_in", "bytes_out", "vanished_vectors",
    "zeroed_values", "skipped_vectors",
)  # fmt: skip
UNPACK: Keys = ("tensor", "decoded_from", "type", "bits_per_value", "bytes_in", "bytes_out")
EVALUATE: Keys = (
    "layer", "side", "head", "type", "bits_per_value", "cosine_mean", "cosine_p1", "cosine_p01",
    "null_cosine_mean", "nmse", "null_nmse", "centred_nmse", "offset_ratio", "kurtosis",
    "attention_kl", "top1", "output_error", "verdict",
)  # fmt: skip
COMPARE: Keys = (
    "name", "side", "bits_per_value", "cosine_mean", "cosine_p1", "nmse", "null_nmse",
    "codebook_excess", "centred_nmse", "worst_layer", "worst_layer_error", "worse_than_first",
    "attention_kl", "output_error", "kl_mean", "same_top1", "perplexity_ratio", "verdict",
)  # fmt: skip
SCORE: Keys = (
    "name", "mode", "bits_per_value", "kl_mean", "kl_se", "kl_median", "kl_p99", "kl_max",
    "same_top1", "perplexity_ratio", "replaced", "logit_change",
)  # fmt: skip
BENCH: Keys = (
    "operation", "kernel", "dtype", "threads", "queries", "ratio_to_memcpy", "values_per_second",
)  # fmt: skip
INSPECT: Keys = (
    "tensor", "type", "batch", "heads", "query_heads", "seq_len", "head_dim", "head_dim_v",
    "bits_per_value", "bytes", "zeroed_values", "gaussian_distortion", "levels",
)  # fmt: skip
ACCEPTED: Keys = ("check", "file", "server", "refusal")
FIT_CODEBOOK: Keys = (
    "table", "distortion", "distortion_train", "distortion_held_out", "distortion_gaussian", "gain",
)  # fmt: skip
TYPES: Keys = (
    "type", "values_per_block", "block_bytes", "bits_64", "bits_80", "bits_128", "bits_256",
)  # fmt: skip
FIGURES: Keys = ("figure", "unit", "range", "formula", "source", "reports")
CALIBRATE: Keys = (
    "layer",
    "num_kv_heads",
    "head_dim",
    "rope",
    "mean_norm",
    "residual",
    "query_texts",
)

# Beyond these a common offset hides the error of K from cosine and from plain nmse.
_HIDDEN, _LARGE = 3.0, 0.5
# A table that makes so much more error than the best of as many levels is worth a sentence.
_EXCESS = 0.1


def explain(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence on the layers at fault whose cosine looks fine; nothing against a verdict."""
    hidden = [row for row in rows if _hides(row)]
    if not hidden:
        return []
    layers, up_to = spans([row["layer"] for row in hidden]), "up to " if len(hidden) > 1 else ""
    offset, error, cosine = (
        max(row[key] for row in hidden) for key in ("offset_ratio", "centred_nmse", "cosine_mean")
    )
    return [
        f"cosine hides it: the keys of layer{'s' if up_to else ''} {', '.join(layers)} share an "
        f"offset {up_to}{offset:.1f} times as long as what tells them apart (offset ratio). "
        f"Softmax ignores the offset; beside what is left the error is {up_to}{amount(error)} "
        f"signal (centred nmse), though the cosine is {up_to}{cosine:.3f}."
    ]


def _hides(row: Mapping[str, Any]) -> bool:
    if row["layer"] == "all" or row.get("head") is not None:
        return False
    centred, plain = row.get("centred_nmse"), row.get("nmse")
    if row.get("verdict") in (None, "fine") or centred is None or not plain:
        return False
    return bool(centred >= max(_HIDDEN * plain, _LARGE))


def amount(ratio: float) -> str:
    """An error in terms of the signal: ``8 % of the``, ``17.8 times the``."""
    return f"{ratio:.0%} of the" if ratio < 1 else f"{ratio:.3g} times the"


def explain_comparison(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on codebooks that are worse than they need to be, and on what to choose."""
    notes = [
        f"{row['name']}: its codebook makes {row['codebook_excess']:+.0%} squared error on "
        "Gaussian values, against the best of as many levels."
        for row in rows
        if row["side"] == "k" and (row.get("codebook_excess") or 0) > _EXCESS
    ]
    for side in "kv":
        levels = {row["name"]: row.get("verdict") for row in rows if row["side"] == side}
        bad = [name for name, level in levels.items() if level == "collapse"]
        good = [name for name, level in levels.items() if level == "fine"]
        if bad:
            advice = f"; fine here: {', '.join(good)}" if good else "; no type here is fine"
            notes.append(f"{side.upper()} collapses under {', '.join(bad)}{advice}.")
    return notes


def explain_ranks(ranks: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line: how well each measure of the dump orders the types as the model does."""
    if not ranks:
        return []
    listed = ", ".join(f"{rank['measure']} {rank['spearman']:+.3f}" for rank in ranks)
    return [f"rank correlation with the model's kl mean over {ranks[0]['rows']} types: {listed}"]
