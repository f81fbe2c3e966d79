"""What people see of each command's rows: columns, and the sentences below the table."""

from __future__ import annotations

from typing import Any

from tqcli.report.result import Column

QUANTIZE = (
    Column("tensor", "tensor"),
    Column("type", "type"),
    Column("bits_per_value", "bits/value", ".4g"),
    Column("bytes_in", "before", "bytes"),
    Column("bytes_out", "after", "bytes"),
    Column("vanished_vectors", "vanished", "d"),
    Column("zeroed_values", "zeroed", "d"),
    Column("skipped_vectors", "skipped", "d"),
)

EVALUATE = (
    Column("layer", "layer"),
    Column("side", "side"),
    Column("head", "head", "d"),
    Column("type", "type"),
    Column("bits_per_value", "bits", ".4g"),
    Column("cosine_mean", "cosine", ".4f"),
    Column("cosine_p1", "p1", ".4f"),
    Column("cosine_p01", "p0.1", ".4f"),
    Column("null_cosine_mean", "Gaussian", ".4f"),
    Column("cosine_z", "z", "+.0f"),
    Column("nmse", "error", ".4f"),
    Column("centred_nmse", "seen error", ".4f"),
    Column("offset_ratio", "offset", ".2f"),
    Column("kurtosis", "kurtosis", "+.2f"),
    Column("verdict", "verdict"),
    Column("reading", "softmax sees"),
)

# With queries, attention says more than the tails of the cosine, and a table has one width.
EVALUATE_ATTENTION = (
    Column("layer", "layer"),
    Column("side", "side"),
    Column("head", "head", "d"),
    Column("type", "type"),
    Column("bits_per_value", "bits", ".4g"),
    Column("cosine_mean", "cosine", ".4f"),
    Column("cosine_p1", "p1", ".4f"),
    Column("null_cosine_mean", "Gaussian", ".4f"),
    Column("nmse", "error", ".4f"),
    Column("centred_nmse", "seen error", ".4f"),
    Column("offset_ratio", "offset", ".2f"),
    Column("reading", "softmax sees"),
    Column("attention_kl", "attn KL", ".2g"),
    Column("top1", "top-1", ".0%"),
    Column("output_error", "out error", ".2g"),
    Column("verdict", "verdict"),
)

COMPARE = (
    Column("name", "type"),
    Column("side", "side"),
    Column("bits_per_value", "bits", ".4g"),
    Column("cosine_mean", "cosine", ".4f"),
    Column("cosine_p1", "p1", ".4f"),
    Column("nmse", "error", ".5f"),
    Column("null_nmse", "Gaussian", ".5f"),
    Column("table_loss", "table loss", "+.0%"),
    Column("centred_nmse", "seen error", ".4f"),
    Column("worst_layer", "worst layer"),
    Column("worst_value", "its error", ".4f"),
    Column("loses_to_first", "loses to first", ".1%"),
    Column("output_error", "out error", ".2g"),
    Column("verdict", "verdict"),
)
# With a model, what it felt takes the place of what explains a table.
COMPARE_MODEL = (
    *(c for c in COMPARE if c.key not in ("table_loss", "worst_value", "loses_to_first")),
    Column("kl_mean", "model KL", ".3g"),
    Column("same_top1", "same top-1", ".1%"),
    Column("perplexity_ratio", "x perplexity", ".4g"),
)

BENCH = (
    Column("operation", "operation"),
    Column("kernel", "kernel"),
    Column("dtype", "dtype"),
    Column("threads", "threads", "d"),
    Column("queries", "queries", "d"),
    Column("ratio_to_memcpy", "x memcpy", ".3f"),
    Column("values_per_second", "values/s", ".3g"),
)

INSPECT = (
    Column("tensor", "tensor"),
    Column("type", "type"),
    Column("batch", "batch", "d"),
    Column("heads", "heads", "d"),
    Column("query_heads", "query heads", "d"),
    Column("seq_len", "seq_len", "d"),
    Column("head_dim", "head_dim", "d"),
    Column("head_dim_v", "head_dim of V", "d"),
    Column("bits_per_value", "bits/value", ".4g"),
    Column("bytes", "size", "bytes"),
    Column("gaussian_distortion", "distortion on N(0,1)", ".6f"),
    Column("levels", "levels"),
)

ACCEPTED = (
    Column("name", "check"),
    Column("file", "file"),
    Column("server", "server"),
    Column("refusal", "refused because"),
)

# Where the error left in K after centring comes near what there is to see, nothing is left.
DESTROYED = 0.5
# An error that centring enlarges this much is hidden from cosine by a common offset.
HIDDEN = 3.0


def evaluate_columns(rows: list[dict[str, Any]]) -> tuple[Column, ...]:
    """The columns for `tq evaluate`: others where attention was measured."""
    measured = any(row.get("output_error") is not None for row in rows)
    return EVALUATE_ATTENTION if measured else EVALUATE


def compare_columns(rows: list[dict[str, Any]]) -> tuple[Column, ...]:
    """The columns for `tq compare`: others where a model ran."""
    return COMPARE_MODEL if any("kl_mean" in row for row in rows) else COMPARE


def reading(row: dict[str, Any]) -> str | None:
    """The centred error of K in words."""
    seen = row.get("centred_nmse")
    if seen is None:
        return None
    if seen >= DESTROYED:
        return f"K DESTROYED: error {amount(seen)} signal"
    plain = row.get("nmse")
    if plain and seen > HIDDEN * plain:
        return f"{seen / plain:.0f}x the error shown"
    return "what is shown"


def amount(ratio: float) -> str:
    """An error in terms of the signal: ``8 % of the``, ``17.8 times the``."""
    return f"{ratio:.0%} of the" if ratio < 1 else f"{ratio:.3g} times the"


def explain(rows: list[dict[str, Any]]) -> list[str]:
    """Add the reading to each row, and say in sentences what the table hides."""
    notes = []
    for row in rows:
        row["reading"] = reading(row)
        if row["layer"] == "all" or row["head"] is not None:
            continue
        seen, plain = row.get("centred_nmse"), row.get("nmse")
        if seen is None or not plain or seen < max(HIDDEN * plain, DESTROYED):
            continue
        notes.append(
            f"layers.{row['layer']}.k: cosine {row['cosine_mean']:.3f} looks fine and is not. Its "
            f"keys share an offset {row['offset_ratio']:.1f} times as long as what tells them "
            "apart. Softmax ignores the offset: of what it sees, the error is "
            f"{amount(seen)} signal."
        )
    return notes


def explain_comparison(rows: list[dict[str, Any]]) -> list[str]:
    """Sentences on tables that lose to the best one of as many levels, and on destroyed K."""
    notes = []
    for row in rows:
        loss = row.get("table_loss")
        if loss is not None and loss > 0.1 and row["side"] == "k":
            notes.append(
                f"{row['name']}: its table makes {loss:+.0%} squared error on Gaussian values, "
                "against the best table of as many levels."
            )
        # Where attention was measured, the verdict knows better than the centred error.
        judged = row.get("verdict") in (None, "collapse")
        if judged and row["side"] == "k" and (row.get("worst_value") or 0) >= DESTROYED:
            notes.append(
                f"{row['name']}: destroys K of layer {row['worst_layer']} "
                f"(of what softmax sees, the error is {amount(row['worst_value'])} signal); "
                "choose a K type with less, q8_0 for instance."
            )
    return notes


def explain_ranks(ranks: list[dict[str, Any]]) -> list[str]:
    """One line: how well each cheap measure orders the types as the model does."""
    if not ranks:
        return []
    listed = ", ".join(f"{rank['measure']} {rank['spearman']:+.3f}" for rank in ranks)
    return [f"rank correlation with the model's KL over {ranks[0]['rows']} types: {listed}"]
