"""Codebooks fitted to dumps: scopes, held-out tokens, and tables that reach their heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import tqcli
from tqcli.codebook import CodebookSet, Histogram, distortion, dumps, fit, stock
from tqcli.errors import InputError, UsageError
from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import dump_record
from tqcli.pipeline import fit as module
from tqcli.pipeline.evaluate import Candidate, evaluate
from tqcli.pipeline.fit import FitOptions, add_vectors, fit_codebook

Make = Callable[..., np.ndarray]


def run(path: Path, **options: Any) -> tuple[CodebookSet, list[dict[str, Any]]]:
    """Fit to one dump."""
    with tqcli.open_dump(path) as dump:
        return fit_codebook([dump], FitOptions(**options), "x")


def test_by_hand(qwen: Path) -> None:
    """Every fifth token is held out; the rest, rotated and binned, make the table."""
    book, rows = run(qwen)
    train, held = Histogram(), Histogram()
    for name, x in load_file(qwen).items():
        if name.endswith((".k", ".v")):
            keep = np.arange(256) % 5 != 4
            add_vectors(train, x[0][:, keep].reshape(-1, 128), FitOptions())
            add_vectors(held, x[0][:, ~keep].reshape(-1, 128), FitOptions())
    expected = fit(train, 3, 128, "x", symmetric=True)
    (table,) = book.tables.values()
    assert np.allclose(table.centroids, expected.centroids, atol=1e-9)
    (row,) = rows
    assert row["weight"] == train.total
    assert row["distortion_held_out"] == pytest.approx(distortion(held, expected), rel=1e-6)
    assert row["distortion_gaussian"] > row["distortion_held_out"]


@pytest.mark.parametrize(
    ("per", "side", "keys"),
    [
        ("pooled", "kv", ["*"]),
        ("pooled", "k", ["k"]),
        ("layer", "kv", ["layers.0", "layers.1", "layers.14", "layers.27"]),
        ("layer", "v", [f"layers.{i}.v" for i in (0, 1, 14, 27)]),
        ("head", "kv", [f"layers.{i}.heads.{h}" for i in (0, 1, 14, 27) for h in (0, 1)]),
        ("head", "k", [f"layers.{i}.k.heads.{h}" for i in (0, 1, 14, 27) for h in (0, 1)]),
    ],
)
def test_scopes(per: str, side: str, keys: list[str], qwen: Path) -> None:
    """Each scope makes the tables it names, each from its own values alone."""
    book, rows = run(qwen, per=per, side=side)
    assert list(book.tables) == keys == [row["table"] for row in rows]
    assert len({t.sha256 for t in book.tables.values()}) == len(keys)


def test_several_dumps_merge(qwen: Path) -> None:
    """Fitting to a dump twice is fitting to it once: weights double, nothing else."""
    with tqcli.open_dump(qwen) as a, tqcli.open_dump(qwen) as b:
        twice, rows = fit_codebook([a, b], FitOptions(), "x")
    once, single = run(qwen)
    assert rows[0]["weight"] == 2 * single[0]["weight"]
    pair = [next(iter(s.tables.values())).centroids for s in (twice, once)]
    assert np.allclose(*pair, atol=1e-12)


@pytest.mark.parametrize("limit", [700, 10_000])
def test_pieces_do_not_show(limit: int, smollm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which tokens are held out does not depend on how the file is read."""
    whole, rows = run(smollm, per="layer", group=64)
    monkeypatch.setattr(module, "_PIECE_BYTES", limit)
    pieces, others = run(smollm, per="layer", group=64)
    for key, table in whole.tables.items():
        assert np.allclose(pieces.tables[key].centroids, table.centroids, atol=1e-9)
    assert [r["weight"] for r in rows] == [r["weight"] for r in others]


def two_heads(gaussian: Make, path: Path) -> Path:
    """A dump whose second head is nothing like the first: spikes, which rotation makes flat."""
    x = gaussian(1, 2, 200, 128)
    random = np.random.default_rng(5)
    x[0, 1] *= np.float32(1e-3)
    x[0, 1, np.arange(200), random.integers(0, 128, 200)] = 3
    specs = [(f"layers.0.{s}", x.dtype, x.shape) for s in "kv"]
    with ContainerWriter(path, specs, dump_record({}, "original", "test")) as writer:
        for name, _, _ in specs:
            writer.write(name, [x])
    return path


def test_tables_reach_their_heads(gaussian: Make, tmp_path: Path) -> None:
    """Each head is encoded with its own table, and decoded with it from the file alone."""
    path = two_heads(gaussian, tmp_path / "d.safetensors")
    book, _ = run(path, per="head", side="kv", bits=2)
    kind = tqcli.CacheType("turbo2", book)
    with tqcli.open_dump(path) as dump:
        target, _ = tqcli.quantize(dump, tmp_path / "p.safetensors", kind, kind)
        direct = evaluate(dump, Candidate(kind, kind), per_head=True).rows()
    x = load_file(path)["layers.0.k"]
    with tqcli.open_packed(target) as packed:
        assert len(packed.tensors[0].codecs) == 2
        blocks = packed.tensors[0].stored.read()
        back = load_file(tqcli.unpack(packed, tmp_path / "b.safetensors"))["layers.0.k"]
        with tqcli.open_dump(path) as dump:
            stored = evaluate(dump, Candidate(packed=packed), per_head=True).rows()
    for head in range(2):
        codec = tqcli.codec("turbo2", codebook=book.find(0, "k", head))
        assert np.array_equal(blocks[0, head], codec.encode(x[0, head]))
        assert np.array_equal(back[0, head], codec.decode(codec.encode(x[0, head]), 128))
    assert stored == direct
    heads = [row for row in direct if row["head"] is not None and row["side"] == "k"]
    assert heads[1]["nmse"] < 0.01 < heads[0]["nmse"]


def test_a_codebook_without_the_place(qwen: Path, tmp_path: Path) -> None:
    """A set for K alone cannot pack V, and says so before anything is written."""
    book, _ = run(qwen, side="k", per="layer")
    kind = tqcli.CacheType("turbo3", book)
    with (
        tqcli.open_dump(qwen) as dump,
        pytest.raises(InputError, match=r"no table for layers\.0\.v"),
    ):
        tqcli.quantize(dump, tmp_path / "p.safetensors", kind, kind)
    assert not list(tmp_path.iterdir())


def test_provenance(qwen: Path) -> None:
    """The file says from what, how and how well; equal runs give equal bytes."""
    book, rows = run(qwen, per="layer", bits=2)
    with tqcli.open_dump(qwen) as dump:
        assert book.provenance["dumps"] == [dump.fingerprint()]
    assert book.provenance["options"]["per"] == "layer"
    assert book.provenance["distortion"] == {r["table"]: r["distortion_held_out"] for r in rows}
    assert dumps(book) == dumps(run(qwen, per="layer", bits=2)[0])


def test_fitted_tables_pay_on_held_out_tokens(qwen: Path) -> None:
    """Per layer on real K: never worse than stock by more than noise, better somewhere."""
    _, rows = run(qwen, per="layer", side="k")
    gains = [row["gain"] for row in rows]
    assert min(gains) > -0.01
    assert max(gains) > 0.02
    assert all(row["distortion_train"] < 0.04 for row in rows)
    assert stock("turbo-3bit").bits == 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": 0}, "--bits 0"),
        ({"bits": 1}, "--bits 1; 2, 3, 4"),
        ({"bits": 5}, "--bits 5; 2, 3, 4"),
        ({"side": "q"}, "--side q"),
        ({"per": "token"}, "--per token"),
        ({"weight": "length"}, "--weight length"),
        ({"group": 96}, "--group 96"),
    ],
)
def test_options_outside_the_lists(options: dict[str, Any], text: str) -> None:
    """Each is named with what is legal."""
    with pytest.raises(UsageError, match=text):
        FitOptions(**options)


def test_nonfinite(gaussian: Make, tmp_path: Path) -> None:
    """Refused with its place by default; with zero and skip the table says how many."""
    x = gaussian(1, 1, 50, 128)
    x[0, 0, 7, 9] = np.nan
    path = tmp_path / "d.safetensors"
    with ContainerWriter(
        path, [("layers.0.k", x.dtype, x.shape)], dump_record({}, "original", "t")
    ) as writer:
        writer.write("layers.0.k", [x])
    with pytest.raises(InputError, match=r"layers\.0\.k: 1 NaN or Inf.* token 7 head 0 dim 9"):
        run(path)
    for rule, key in (("zero", "zeroed_values"), ("skip", "skipped_vectors")):
        with tqcli.open_dump(path) as dump:
            book, _ = fit_codebook([dump], FitOptions(), "x", nonfinite=rule)
        assert book.provenance[key] == 1


def test_nothing_to_fit(gaussian: Make, tmp_path: Path) -> None:
    """A dump without the side asked for is an error, not an empty file."""
    x = gaussian(1, 1, 50, 128)
    path = tmp_path / "d.safetensors"
    with ContainerWriter(
        path, [("layers.0.k", x.dtype, x.shape)], dump_record({}, "original", "t")
    ) as writer:
        writer.write("layers.0.k", [x])
    with pytest.raises(InputError, match="no v tensors"):
        run(path, side="v")
