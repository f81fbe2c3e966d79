"""What the commands do beyond their contract: shards, reports side by side, inspection."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import tqcli
from tqcli.codebook import read_codebook

Run = Callable[..., Any]


@pytest.fixture
def packed(tq: Run, kv: Path, tmp_path: Path) -> Path:
    """The dump in turbo3."""
    path = tmp_path / "packed.safetensors"
    assert tq("quantize", kv, "-o", path).code == 0
    return path


def test_default_is_turbo3(packed: Path, kv: Path) -> None:
    """Without types both sides are turbo3."""
    x, blocks = load_file(kv), load_file(packed)
    for name in ("layers.0.k", "layers.14.v"):
        assert np.array_equal(blocks[f"{name}.blocks"], tqcli.codec("turbo3").encode(x[name]))


def test_shards(tq: Run, kv: Path, packed: Path, tmp_path: Path) -> None:
    """--max-shard-size cuts; the index opens everywhere a file does."""
    result = tq(
        "quantize", kv, "-o", tmp_path / "s.safetensors", "--max-shard-size", "64KiB", "--json"
    )
    index = json.loads(result.out)["output"]
    assert index == str(tmp_path / "s.safetensors.index.json")
    evaluations = [
        json.loads(tq("evaluate", kv, path, "--json").out)["rows"] for path in (packed, index)
    ]
    assert evaluations[0] == evaluations[1]
    assert tq("inspect", index, "--verify").code == 0
    assert tq("unpack", index, "-o", tmp_path / "b.safetensors").code == 0


def test_evaluate_packed_and_types(tq: Run, kv: Path, packed: Path) -> None:
    """The two ways to ask give the same rows."""
    rows = [
        json.loads(tq("evaluate", kv, *rest, "--json").out)["rows"]
        for rest in ((packed,), ("-ctk", "turbo3", "-ctv", "turbo3"), ())
    ]
    assert rows[0] == rows[1] == rows[2]


def test_evaluate_says_what_cosine_hides(tq: Run, kv: Path) -> None:
    """The table and a sentence make layer 0 plain to someone who does not know why."""
    result = tq("evaluate", kv)
    assert "cosine hides it: the keys of layer 0 share an offset 57.3 times" in result.out
    assert "the error is 17.8 times the signal (centred nmse), though the cosine is 0.986" in (
        result.out
    )


def test_per_head(tq: Run, kv: Path) -> None:
    """A row for each head, on request only."""
    plain, heads = (
        json.loads(tq("evaluate", kv, "--json", *extra).out)["rows"]
        for extra in ((), ("--per-head",))
    )
    assert len(plain) == 2 * 2 + 2
    assert len(heads) == len(plain) + 2 * 2 * 2
    assert [r["mse"] for r in heads if r["head"] is None] == [r["mse"] for r in plain]


def test_evaluate_against_itself(tq: Run, kv: Path) -> None:
    """Reference equal to candidate gives exactly 0."""
    rows = json.loads(tq("evaluate", kv, kv, "--json").out)["rows"]
    assert all(row["nmse"] == 0 and row["cosine_mean"] == 1 for row in rows)


def test_a_cache_of_another_dump(tq: Run, smollm: Path, packed: Path) -> None:
    """Refused, since every figure would be nonsense."""
    result = tq("evaluate", smollm, packed)
    assert result.code == 3
    assert "was made from another dump" in result.err


def test_fitted_codebooks_travel(tq: Run, kv: Path, tmp_path: Path) -> None:
    """fit-codebook to quantize to evaluate, per head, K and V apart."""
    books = {}
    for side in "kv":
        books[side] = tmp_path / f"{side}.json"
        result = tq("fit-codebook", kv, "--side", side, "--per", "head", "-o", books[side])
        assert result.code == 0
    target = tmp_path / "p.safetensors"
    options = ("--codebook-k", books["k"], "--codebook-v", books["v"])
    assert tq("quantize", kv, "-o", target, *options).code == 0
    rows = [
        json.loads(tq("evaluate", kv, *rest, "--json").out)["rows"] for rest in ((target,), options)
    ]
    assert rows[0] == rows[1]
    x, blocks = load_file(kv), load_file(target)
    for side in "kv":
        book = read_codebook(books[side])
        for head in range(2):
            codec = tqcli.codec("turbo3", codebook=book.find(14, side, head))
            name = f"layers.14.{side}"
            expected = codec.encode(x[name][0, head])
            assert np.array_equal(blocks[f"{name}.blocks"][0, head], expected)


def test_codebook_id(tq: Run, kv: Path, tmp_path: Path) -> None:
    """Named after the file unless told otherwise."""
    for extra, name in (((), "mine"), (("--id", "special"), "special")):
        path = tmp_path / "mine.json"
        assert tq("fit-codebook", kv, "-o", path, "--force", *extra).code == 0
        assert read_codebook(path).id == name


def save(tq: Run, path: Path, *arguments: object) -> Path:
    """Keep a JSON report."""
    result = tq(*arguments, "--json")
    assert result.code == 0
    path.write_text(result.out)
    return path


def test_saved_reports_side_by_side(tq: Run, kv: Path, tmp_path: Path) -> None:
    """Reports of one dump compare as their types would on it."""
    a = save(tq, tmp_path / "a.json", "evaluate", kv, "-ctk", "turbo3")
    b = save(tq, tmp_path / "b.json", "evaluate", kv, "-ctk", "turbo4", "-ctv", "turbo4")
    both = json.loads(tq("compare", a, b, "--json").out)
    live = json.loads(tq("compare", kv, "-t", "turbo3", "-t", "turbo4", "--json").out)
    assert [r["name"].split(":")[0] for r in both["rows"]] == ["a", "a", "b", "b"]
    for name in ("side", "cosine_mean", "cosine_p1", "nmse", "bits_per_value", "centred_nmse"):
        assert [r[name] for r in both["rows"]] == [r[name] for r in live["rows"]]
    assert both["inputs"][0]["fingerprint"] == live["inputs"][0]["fingerprint"]


def test_reports_of_other_dumps(tq: Run, kv: Path, smollm: Path, tmp_path: Path) -> None:
    """Figures of two models side by side say nothing about the types; --force insists."""
    a = save(tq, tmp_path / "a.json", "evaluate", kv)
    b = save(tq, tmp_path / "b.json", "compare", smollm, "-t", "turbo3")
    refused = tq("compare", a, b)
    assert (refused.code, refused.out) == (3, "")
    assert "hold other tensors; compare reports of one dump or pass --force" in refused.err
    assert tq("compare", a, b, "--force").code == 0


def test_gates_on_comparisons(tq: Run, kv: Path, tmp_path: Path) -> None:
    """Any type on which the condition holds fails it, live or saved, and is named."""
    types = ("-t", "turbo4", "-t", "turbo2")
    live = tq("compare", kv, *types, "--fail-if", "v.p1<0.95")
    assert live.code == 1
    assert "(turbo2)" in live.err
    assert "(turbo4)" not in live.err
    saved = save(tq, tmp_path / "a.json", "compare", kv, *types)
    assert tq("compare", saved, "--fail-if", "v.p1<0.95").code == 1
    assert tq("compare", saved, "--fail-if", "v.p1<0.5").code == 0


def test_compare_shows_the_old_table(tq: Run, kv: Path) -> None:
    """The defect of the 4-bit table stands in the table and in a sentence."""
    out = tq("compare", kv, "-t", "turbo4", "-t", "turbo4@2026-03").out
    assert "+113%" in out or "+114%" in out
    assert "turbo4@2026-03: its codebook makes" in out


def test_inspect(tq: Run, kv: Path, packed: Path, root: Path, tmp_path: Path) -> None:
    """A dump, a cache and a codebook are told apart and described."""
    kinds = {}
    for path in (kv, packed, root / "codebooks" / "turbo-3bit.json"):
        document = json.loads(tq("inspect", path, "--json").out)
        kinds[document["kind"].split()[0]] = document
    assert set(kinds) == {"dump", "packed", "codebook"}
    assert kinds["packed"]["rows"][0]["bits_per_value"] == 3.125
    assert kinds["packed"]["rows"][0]["type"] == "turbo3"
    assert len(kinds["dump"]["rows"]) == 4
    assert "0.190207" in kinds["codebook"]["rows"][0]["levels"]


def test_verify_finds_one_flipped_bit(tq: Run, packed: Path) -> None:
    """Every byte is hashed; inspect alone reads headers only."""
    data = bytearray(packed.read_bytes())
    data[-1000] ^= 1
    packed.write_bytes(data)
    assert tq("inspect", packed).code == 0
    result = tq("inspect", packed, "--verify")
    assert (result.code, result.out) == (3, "")
    assert "checksum" in result.err


def test_types_lists_every_codec(tq: Run) -> None:
    """Block sizes and bits as the codecs have them."""
    rows = json.loads(tq("types", "--json").out)["rows"]
    assert [row["type"] for row in rows] == tqcli.codec_ids()
    by = {row["type"]: row for row in rows}
    assert by["turbo3"]["bits_128"] == 3.125
    assert by["turbo3"]["bits_64"] == 6.25
    assert by["turbo3-g64"]["bits_64"] == 3.25
    assert by["q8_0"]["bits_80"] is None


def test_nonfinite_zero(tq: Run, tmp_path: Path) -> None:
    """Asked for, NaN becomes 0 and is counted; the rest is untouched."""
    from safetensors.numpy import save_file

    x = np.random.default_rng(3).standard_normal((1, 1, 9, 128)).astype(np.float16)
    x[0, 0, 4, 7] = np.nan
    save_file({"layers.0.k": x, "layers.0.v": x}, tmp_path / "d.safetensors")
    target = tmp_path / "p.safetensors"
    result = tq(
        "quantize", tmp_path / "d.safetensors", "-o", target, "--nonfinite", "zero", "--json"
    )
    assert [row["zeroed_values"] for row in json.loads(result.out)["rows"]] == [1, 1]
    x[0, 0, 4, 7] = 0
    expected = tqcli.codec("turbo3").encode(x)
    assert np.array_equal(load_file(target)["layers.0.k.blocks"], expected)
