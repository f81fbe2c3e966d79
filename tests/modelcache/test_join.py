"""Model figures beside cheap measures, and which of them orders types as the model does."""

from __future__ import annotations

from tqcli.model.compare import join


def test_join_and_rank() -> None:
    """Both sides of a type get its model figures; a measure in the same order ranks 1."""
    names = ["a", "b", "c"]
    rows = [
        {"name": name, "side": side, "nmse": error if side == "k" else 1 / error,
         "output_error_both": 2 * error}
        for name, error in zip(names, (0.1, 0.3, 0.2), strict=True)
        for side in "kv"
    ]  # fmt: skip
    scores = [{"kl_mean": kl, "same_top1": 0.9} for kl in (0.01, 0.9, 0.05)]
    ranks = {rank["measure"]: rank["spearman"] for rank in join(rows, scores, names)}
    assert [row["kl_mean"] for row in rows] == [0.01, 0.01, 0.9, 0.9, 0.05, 0.05]
    assert ranks == {"k.nmse": 1.0, "v.nmse": -1.0, "output_error_both": 1.0}
