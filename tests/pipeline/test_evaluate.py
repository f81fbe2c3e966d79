"""Measures over files: one truth by whichever way it is reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import tqcli
from tqcli import kernels
from tqcli.errors import InputError
from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import dump_record
from tqcli.kv.tensorfile import Entry, TensorFile
from tqcli.pipeline import measure as module
from tqcli.pipeline.candidate import open_candidate
from tqcli.pipeline.compare import compare
from tqcli.pipeline.evaluate import Candidate, evaluate

Make = Callable[..., np.ndarray]
Rows = list[dict[str, Any]]


def of_types(path: Path, k: str, v: str, **options: Any) -> Rows:
    """Rows of an evaluation that encodes on the fly."""
    with tqcli.open_dump(path) as dump:
        candidate = Candidate(tqcli.CacheType(k), tqcli.CacheType(v))
        return evaluate(dump, candidate, **options).rows()


def of_file(path: Path, other: str | Path, per_head: bool = False) -> Rows:
    """Rows against a packed cache or a second dump."""
    with tqcli.open_dump(path) as dump, open_candidate(other, dump) as (candidate, _):
        return evaluate(dump, candidate, per_head=per_head).rows()


def pack(path: Path, target: Path, k: str, v: str) -> str:
    """Quantize to a file."""
    with tqcli.open_dump(path) as dump:
        return tqcli.quantize(dump, target, tqcli.CacheType(k), tqcli.CacheType(v))[0]


def row_of(rows: Rows, layer: int | str, side: str, head: int | None = None) -> dict[str, Any]:
    """The one row of a place."""
    (row,) = [r for r in rows if (r["layer"], r["side"], r["head"]) == (layer, side, head)]
    return row


@pytest.mark.parametrize(("k", "v"), [("turbo3", "turbo3"), ("q8_0", "turbo2"), ("q4_0+rot",) * 2])
def test_packed_is_judged_as_its_types(k: str, v: str, qwen: Path, tmp_path: Path) -> None:
    """What is stored and what would be stored are the same bytes, so the same figures."""
    packed = pack(qwen, tmp_path / "p.safetensors", k, v)
    assert of_file(qwen, packed, per_head=True) == of_types(qwen, k, v, per_head=True)


def test_a_dump_against_itself(qwen: Path) -> None:
    """Equal must give exactly 0 and exactly 1, not nearly."""
    rows = of_file(qwen, qwen)
    assert len(rows) == 10
    for row in rows:
        assert row["nmse"] == row["mse"] == row["max_abs_error"] == 0
        assert row["cosine_min"] == row["cosine_mean"] == row["cosine_p01"] == 1
        assert row["type"] is None
        assert row["centred_nmse"] == (0 if row["side"] == "k" else None)


def test_cosine_of_equal_vectors_is_one(gaussian: Make) -> None:
    """Exactly 1, whatever the rounding of a square root would say."""
    x = gaussian(500, 77)
    measures = tqcli.evaluate(x, x.copy())
    names = ("cosine_mean", "cosine_p50", "cosine_p1", "cosine_p01", "cosine_min")
    assert [measures[n] for n in names] == [1.0] * 5
    assert [measures[n] for n in ("nmse", "mse", "max_abs_error", "centred_nmse")] == [0.0] * 4


def test_dump_of_decoded_values(smollm: Path, tmp_path: Path) -> None:
    """Unpacked to float32, a second dump is judged as the packed cache is."""
    packed = pack(smollm, tmp_path / "p.safetensors", "turbo3", "turbo4")
    with tqcli.open_packed(packed) as opened:
        twin = tqcli.unpack(opened, tmp_path / "b.safetensors", dtype=np.float32)
    a, b = of_file(smollm, packed), of_file(smollm, twin)
    for name in ("mse", "nmse", "cosine_mean", "cosine_p1", "centred_nmse", "max_abs_error"):
        assert [r[name] for r in a] == [r[name] for r in b]


def test_the_array_function_agrees(qwen: Path) -> None:
    """The library's one line and the pipeline over files are one arithmetic."""
    x = load_file(qwen)["layers.14.k"]
    codec = tqcli.codec("turbo3")
    measures = tqcli.evaluate(x, codec.decode(codec.encode(x), 128))
    row = row_of(of_types(qwen, "turbo3", "turbo3"), 14, "k")
    for name, value in measures.items():
        assert row[name] == pytest.approx(value, rel=1e-12), name


def test_a_huge_offset_hides_from_cosine(qwen: Path) -> None:
    """Layer 0 of Qwen: cosine as good as Gaussian, and softmax sees more noise than signal."""
    rows = of_types(qwen, "turbo3", "turbo3")
    first, later = row_of(rows, 0, "k"), row_of(rows, 14, "k")
    assert first["cosine_mean"] > 0.98
    assert first["centred_nmse"] > 1
    assert first["offset_ratio"] > 10
    assert later["centred_nmse"] < 0.2
    assert row_of(of_types(qwen, "q8_0", "q8_0"), 0, "k")["centred_nmse"] < 0.2


def centred(x: np.ndarray, decoded: np.ndarray) -> float:
    """Written out: take each head's mean over tokens from both, then error over signal."""
    error = signal = 0.0
    for a, b in zip(x.reshape(-1, *x.shape[-2:]), decoded.reshape(-1, *x.shape[-2:]), strict=True):
        p, q = (m.astype(np.float64) - m.astype(np.float64).mean(axis=0) for m in (a, b))
        error += ((p - q) ** 2).sum()
        signal += (p**2).sum()
    return error / signal


def test_measures_by_hand(smollm: Path) -> None:
    """Every figure of a row against its definition."""
    row = row_of(of_types(smollm, "turbo3", "turbo3"), 7, "k")
    x = load_file(smollm)["layers.7.k"]
    codec = tqcli.codec("turbo3")
    decoded = codec.decode(codec.encode(x), 64)
    a, b = (m.reshape(-1, 64).astype(np.float64) for m in (x, decoded))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert row["vectors"] == a.shape[0] == 768
    assert row["mse"] == pytest.approx(((a - b) ** 2).mean())
    assert row["nmse"] == pytest.approx(((a - b) ** 2).sum() / (a**2).sum())
    assert row["cosine_mean"] == pytest.approx(cosines.mean())
    for name, percent in (("cosine_p50", 50), ("cosine_p1", 1), ("cosine_p01", 0.1)):
        assert row[name] == pytest.approx(np.percentile(cosines, percent))
    assert row["cosine_min"] == pytest.approx(cosines.min())
    assert row["max_abs_error"] == pytest.approx(np.abs(a - b).max())
    assert row["centred_nmse"] == pytest.approx(centred(x, decoded))
    means = x[0].astype(np.float64).mean(axis=1, keepdims=True)
    rest = ((x[0] - means) ** 2).sum()
    assert row["offset_ratio"] == pytest.approx(np.sqrt(256 * (means**2).sum() / rest))


def test_heads_and_pool(qwen: Path) -> None:
    """Rows of heads cover their layer; pooled rows cover all layers, weighted by energy."""
    rows = of_types(qwen, "turbo3", "turbo4", per_head=True)
    for side in "kv":
        layers = [row_of(rows, layer, side) for layer in (0, 1, 14, 27)]
        pooled = row_of(rows, "all", side)
        assert pooled["vectors"] == sum(r["vectors"] for r in layers)
        assert pooled["mse"] == pytest.approx(np.mean([r["mse"] for r in layers]))
        assert pooled["cosine_mean"] == pytest.approx(np.mean([r["cosine_mean"] for r in layers]))
        heads = [row_of(rows, 14, side, head) for head in (0, 1)]
        assert row_of(rows, 14, side)["mse"] == pytest.approx(np.mean([r["mse"] for r in heads]))
        assert heads[0]["mse"] != heads[1]["mse"]


@pytest.mark.parametrize("limit", [700, 10_000])
def test_pieces_do_not_show(limit: int, smollm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is read at a time changes no bit of any figure."""
    whole = of_types(smollm, "turbo3", "q8_0", per_head=True)
    monkeypatch.setattr(module, "_PIECE_BYTES", limit)
    assert of_types(smollm, "turbo3", "q8_0", per_head=True) == whole


@pytest.mark.parametrize("limit", [700, 10_000])
def test_pieces_of_files_stay_in_step(
    limit: int, smollm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks and floats have other sizes, and are still read vector beside vector."""
    packed = pack(smollm, tmp_path / "p.safetensors", "turbo3-b32", "turbo3-g64")
    with tqcli.open_packed(packed) as opened:
        twin = tqcli.unpack(opened, tmp_path / "b.safetensors", dtype=np.float32)
    expected = [of_file(smollm, other) for other in (packed, twin)]
    monkeypatch.setattr(module, "_PIECE_BYTES", limit)
    assert [of_file(smollm, other) for other in (packed, twin)] == expected


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_show(threads: int, qwen: Path) -> None:
    """Nor does the number of threads."""
    expected = of_types(qwen, "turbo3", "turbo4", per_head=True)
    kernels.set_threads(threads)
    try:
        assert of_types(qwen, "turbo3", "turbo4", per_head=True) == expected
    finally:
        kernels.set_threads(None)


def test_kernels_do_not_show(qwen: Path) -> None:
    """Nor does the kernel: figures of one machine can be compared with those of another."""
    found = []
    for name in kernels.available():
        with kernels.use(name):
            found.append(of_types(qwen, "turbo3", "turbo3-b32", per_head=True))
    assert all(rows == found[-1] for rows in found)


def test_heads_apart_are_heads_together(smollm: Path) -> None:
    """A layer has one set of figures, whether or not its heads have rows of their own."""
    apart = of_types(smollm, "turbo3", "q8_0", per_head=True)
    together = of_types(smollm, "turbo3", "q8_0")
    assert [row for row in apart if row["head"] is None] == together


def test_skipped_vectors_do_not_count(gaussian: Make, tmp_path: Path) -> None:
    """--nonfinite skip leaves them out of the statistics, zero keeps them in."""
    x = gaussian(1, 2, 20, 128)
    x[0, 1, 3, 5] = np.inf
    path = tmp_path / "d.safetensors"
    record = dump_record({}, "original", "test")
    specs = [(f"layers.0.{s}", x.dtype, x.shape) for s in "kv"]
    with ContainerWriter(path, specs, record) as writer:
        writer.write("layers.0.k", [x])
        writer.write("layers.0.v", [np.ones_like(x)])
    counts = {
        rule: row_of(of_types(path, "turbo3", "turbo3", nonfinite=rule), 0, "k")["vectors"]
        for rule in ("zero", "skip")
    }
    assert counts == {"zero": 40, "skip": 39}
    with pytest.raises(InputError, match=r"layers\.0\.k: token 3 head 1 dim 5"):
        of_types(path, "turbo3", "turbo3")


def test_pieces_do_not_show_around_skipped_vectors(
    gaussian: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vector keeps its place in the sums when some before it are left out."""
    x = gaussian(1, 1, 9001, 32)
    x[0, 0, ::13, 5] = np.inf
    path = tmp_path / "d.safetensors"
    specs = [(f"layers.0.{s}", x.dtype, x.shape) for s in "kv"]
    with ContainerWriter(path, specs, dump_record({}, "original", "test")) as writer:
        for name, _, _ in specs:
            writer.write(name, [x])
    found = []
    for limit in (1 << 20, 10_000, 5000 * x.shape[-1] * x.itemsize):
        monkeypatch.setattr(module, "_PIECE_BYTES", limit)
        found.append(of_types(path, "q8_0", "q4_0", nonfinite="skip"))
    assert found[0][0]["vectors"] == 9001 - 693
    assert found[1] == found[2] == found[0]


def test_null_columns(qwen: Path) -> None:
    """Each row carries the Gaussian figures of its codec and head_dim, and the distance to them."""
    row = row_of(of_types(qwen, "turbo3", "turbo3"), 14, "v")
    assert row["null_cosine_mean"] == pytest.approx(0.98309, abs=3e-4)
    assert row["null_nmse"] == pytest.approx(0.03382, abs=5e-4)
    assert np.sign(row["cosine_z"]) == np.sign(row["cosine_mean"] - row["null_cosine_mean"])
    mixed = row_of(of_types(qwen, "q4_0+rot", "q4_0+rot"), "all", "v")
    assert mixed["null_cosine_mean"] is not None


def test_candidates_that_do_not_fit(qwen: Path, smollm: Path, tmp_path: Path) -> None:
    """A cache of another dump, or a dump of other shapes, is refused by name."""
    packed = pack(smollm, tmp_path / "p.safetensors", "turbo3", "turbo3")
    with pytest.raises(InputError, match="was made from another dump"):
        of_file(qwen, packed)
    with pytest.raises(InputError, match=r"has no layers|has shape"):
        of_file(qwen, smollm)


def test_compare(qwen: Path) -> None:
    """One row a type and side, held against the first; the old table's defect is visible."""
    names = ("turbo4", "turbo4@2026-03", "q8_0")
    with tqcli.open_dump(qwen) as dump:
        types = [(tqcli.CacheType(n), tqcli.CacheType(n)) for n in names]
        rows = compare(dump, types)
    assert [(r["name"], r["side"]) for r in rows] == [(n, s) for n in names for s in "kv"]
    by = {(r["name"], r["side"]): r for r in rows}
    for side in "kv":
        assert by["turbo4", side]["worse_than_first"] is None
        assert by["turbo4@2026-03", side]["worse_than_first"] > 0.9
        assert by["q8_0", side]["worse_than_first"] < 0.01
        assert by["turbo4@2026-03", side]["codebook_excess"] == pytest.approx(1.13, abs=0.01)
        assert by["turbo4", side]["codebook_excess"] < 0.005
        assert by["q8_0", side]["codebook_excess"] is None
    assert by["turbo4", "k"]["worst_layer"] == 0
    for name in names:
        alone = row_of(of_types(qwen, name, name), "all", "k")
        assert {k: by[name, "k"][k] for k in alone} == alone


def test_worse_than_first_by_hand(smollm: Path) -> None:
    """The share of vectors that the first type decodes with less error, vector by vector."""
    names = ("turbo3-g64", "turbo2-g64", "q4_0")
    with tqcli.open_dump(smollm) as dump:
        rows = compare(dump, [(tqcli.CacheType(n), tqcli.CacheType(n)) for n in names])
    for at, side in enumerate("kv"):
        own = (value for name, value in load_file(smollm).items() if name[-1] == side)
        x = np.concatenate([value.reshape(-1, 64) for value in own]).astype(np.float64)
        errors = []
        for name in names:
            made = tqcli.codec(name)
            decoded = made.decode(made.encode(x.astype(np.float16)), 64)
            errors.append(((decoded - x) ** 2).sum(axis=1))
        shares = [float((error > errors[0]).mean()) for error in errors[1:]]
        assert [row["worse_than_first"] for row in rows[2 + at :: 2]] == shares


def test_compare_reads_the_dump_once(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many types there are."""
    read = []
    chunks = TensorFile.chunks

    def counted(self: TensorFile, entry: Entry, *rest: Any) -> Any:
        read.append(entry.name)
        return chunks(self, entry, *rest)

    monkeypatch.setattr(TensorFile, "chunks", counted)
    with tqcli.open_dump(qwen) as dump:
        compare(dump, [(tqcli.CacheType(n), tqcli.CacheType(n)) for n in ("turbo3", "turbo4")])
        assert sorted(read) == sorted(tensor.name for tensor in dump.kv())


def test_the_public_claim_on_real_tensors(qwen: Path) -> None:
    """Dropping QJL as published (.9508) wins on nearly every vector, the tail included."""
    with tqcli.open_dump(qwen) as dump:
        types = [
            (tqcli.CacheType(n), tqcli.CacheType(n))
            for n in ("turbo3", "turbo3-qjl@scale", "turbo3-qjl")
        ]
        rows = compare(dump, types)
    plain, published, right = rows[1::2]
    assert plain["cosine_mean"] > 0.983 > right["cosine_mean"] > 0.977
    assert published["cosine_mean"] == pytest.approx(0.9508, abs=0.004)
    assert published["worse_than_first"] > 0.99
    assert published["cosine_p1"] < right["cosine_p1"] < plain["cosine_p1"]
