"""One screen instead of a hundred rows."""

from __future__ import annotations

from typing import Any

from tqcli.report.brief import alike, worst
from tqcli.report.verdict import judge_all, severity


def tensor(layer: int, side: str, **changes: Any) -> dict[str, Any]:
    """A row of `tq quantize`."""
    kind, bits = ("q8_0", 8.5) if side == "k" else ("turbo3", 3.125)
    row = {
        "tensor": f"layers.{layer}.{side}",
        "type": kind,
        "bits_per_value": bits,
        "values": 800,
        "bytes_out": int(100 * bits),
        "vanished_vectors": layer % 2,
        "digest": f"{layer}{side}",
    }
    return row | changes


def test_equal_tensors_become_one_row() -> None:
    """One a side, with sums, and the sum of all; bits weigh by values."""
    rows = [tensor(layer, side) for layer in range(64) for side in "kv"]
    k, v, total = alike(rows).rows
    assert (k["tensor"], v["tensor"], total["tensor"]) == ("layers.0-63.k", "layers.0-63.v", "all")
    assert (k["type"], k["bits_per_value"], k["bytes_out"]) == ("q8_0", 8.5, 64 * 850)
    assert k["vanished_vectors"] == 32
    assert total["bytes_out"] == 64 * (850 + 312)
    assert total["bits_per_value"] == (8.5 + 3.125) / 2
    assert "type" not in total
    assert "digest" not in k


def test_what_differs_stays_apart() -> None:
    """A layer of another type or shape is a row of its own, and many runs are counted."""
    rows = [tensor(layer, "k", type="f16" if layer == 3 else "q8_0") for layer in range(6)]
    assert [r["tensor"] for r in alike(rows).rows] == ["layers.0-2,4-5.k", "layers.3.k", "all"]
    rows = [tensor(layer, "k") for layer in range(0, 30, 3)]
    assert [r["tensor"] for r in alike(rows).rows] == ["layers.0-27.k (10)"]


def test_names_without_layers_stay() -> None:
    """Tables of a codebook or token ids are no layers."""
    rows: list[dict[str, Any]] = [{"tensor": "*", "levels": "0 1"}, {"tensor": "k", "levels": "0"}]
    assert alike(rows).rows == rows
    assert alike([]).rows == []


def evaluation(errors: dict[int, float], heads: int = 0) -> list[dict[str, Any]]:
    """Judged rows of K with these output errors, and the row over all layers."""
    rows: list[dict[str, Any]] = []
    for layer, error in errors.items():
        rows.append({"layer": layer, "side": "k", "head": None, "output_error": error})
        for head in range(heads):
            nmse = 0.01 * head + 0.001 * layer
            rows.append({"layer": layer, "side": "k", "head": head, "nmse": nmse})
    total = sum(errors.values())
    rows.append({"layer": "all", "side": "k", "head": None, "output_error": total})
    judge_all(rows)
    return rows


def layers(rows: Any) -> list[Any]:
    """Which layers are shown."""
    return [row["layer"] for row in rows]


def test_few_rows_are_all_shown() -> None:
    """What fits a screen is left alone."""
    assert worst(evaluation(dict.fromkeys(range(15), 0.01)), severity) is None


def test_the_worst_and_the_pooled() -> None:
    """Of fine layers the five worst, in the order of the layers, and the row over all."""
    brief = worst(evaluation({layer: 0.001 * layer for layer in range(28)}), severity)
    assert brief is not None
    assert layers(brief.rows) == [23, 24, 25, 26, 27, "all"]
    assert brief.words == "all layers, the layers at fault and the five worst"


def test_layers_at_fault_are_shown() -> None:
    """Also where there are more than five, up to ten; the line says how many are not."""
    errors = {layer: 0.2 if 4 <= layer < 12 else 0.01 for layer in range(28)}
    brief = worst(evaluation(errors), severity)
    assert brief is not None
    assert layers(brief.rows) == [*range(4, 12), "all"]
    brief = worst(evaluation({layer: 0.2 + layer for layer in range(28)}), severity)
    assert brief is not None
    assert layers(brief.rows) == [*range(18, 28), "all"]
    assert "(less 18)" in brief.words


def test_worst_heads() -> None:
    """With a row for each head the five worst are heads."""
    brief = worst(evaluation(dict.fromkeys(range(28), 0.01), heads=4), severity)
    assert brief is not None
    assert [(row["layer"], row["head"]) for row in brief.rows] == [
        *((layer, 3) for layer in range(23, 28)),
        ("all", None),
    ]
