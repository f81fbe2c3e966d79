"""Dump to packed cache and back: what is in the files is what the codecs say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import tqcli
from tqcli.errors import InputError, UsageError
from tqcli.kv import tensorfile
from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import dump_record

Make = Callable[..., np.ndarray]
TYPES = (
    "turbo3",
    "turbo2",
    "turbo4@2026-03",
    "turbo3-b32",
    "turbo3-qjl",
    "q8_0",
    "q4_0+rot",
    "f16",
)


def pack(dump_path: Path, target: Path, k: str, v: str | None = None, **options: object) -> str:
    """Quantize with one type for K and one for V."""
    with tqcli.open_dump(dump_path) as dump:
        path, _ = tqcli.quantize(
            dump, target, tqcli.CacheType(k), tqcli.CacheType(v or k), **options
        )
    return path


def write_dump(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A dump of these arrays."""
    specs = [(name, array.dtype, array.shape) for name, array in tensors.items()]
    with ContainerWriter(path, specs, dump_record({"kind": "test"}, "original", "test")) as writer:
        for name, array in tensors.items():
            writer.write(name, [array])
    return path


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("model", ["qwen", "smollm"])
def test_blocks_and_values(
    name: str, model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Each stored tensor is codec.encode of the real one, and unpacks to codec.decode: equality."""
    source = request.getfixturevalue(model)
    packed_path = pack(source, tmp_path / "packed.safetensors", name)
    with tqcli.open_packed(packed_path) as packed:
        back = tqcli.unpack(packed, tmp_path / "back.safetensors", dtype=np.float32)
        rotated = tqcli.unpack(packed, tmp_path / "rotated.safetensors", domain="rotated")
        assert len(packed.tensors) == 8
    plain, blocks, values = (load_file(p) for p in (source, packed_path, back))
    inside = load_file(rotated)
    for tensor in (n for n in plain if n.endswith((".k", ".v"))):
        x = plain[tensor]
        codec = tqcli.codec(name, side=tensor[-1], head_dim=x.shape[-1])
        assert np.array_equal(blocks[f"{tensor}.blocks"], codec.encode(x))
        expected = codec.decode(codec.encode(x), x.shape[-1])
        assert values[tensor].tobytes() == expected.tobytes()
        half = codec.decode(codec.encode(x), x.shape[-1], domain="rotated", dtype=np.float16)
        assert inside[tensor].tobytes() == half.tobytes()
    assert np.array_equal(values["token_ids"], plain["token_ids"])
    assert not any(n.endswith(".q") for n in values)


def test_codes(qwen: Path, tmp_path: Path) -> None:
    """The third domain holds the levels, as bytes, padded."""
    with tqcli.open_packed(pack(qwen, tmp_path / "p.safetensors", "turbo3", "turbo2")) as packed:
        path = tqcli.unpack(packed, tmp_path / "codes.safetensors", domain="codes")
    plain, codes = load_file(qwen), load_file(path)
    for side, name in (("k", "turbo3"), ("v", "turbo2")):
        codec = tqcli.codec(name)
        expected = codec.codes(codec.encode(plain[f"layers.14.{side}"]))
        assert codes[f"layers.14.{side}"].dtype == np.uint8
        assert np.array_equal(codes[f"layers.14.{side}"], expected)


@pytest.mark.parametrize("domain", ["rotated", "codes"])
def test_other_domains_are_no_input(domain: str, qwen: Path, tmp_path: Path) -> None:
    """Rotated values quantized again would be silently wrong."""
    with tqcli.open_packed(pack(qwen, tmp_path / "p.safetensors", "turbo3")) as packed:
        path = tqcli.unpack(packed, tmp_path / "r.safetensors", domain=domain)
    with pytest.raises(InputError, match=f"{domain} domain; only an original dump"):
        pack(Path(path), tmp_path / "again.safetensors", "turbo3")


def test_dtype_of_the_dump_is_kept(gaussian: Make, tmp_path: Path) -> None:
    """A bfloat16 dump comes back in bfloat16 unless another is asked for."""
    import ml_dtypes

    x = gaussian(1, 2, 5, 64).astype(ml_dtypes.bfloat16)
    dump = write_dump(tmp_path / "d.safetensors", {"layers.0.k": x, "layers.0.v": x})
    with tqcli.open_packed(pack(dump, tmp_path / "p.safetensors", "turbo4")) as packed:
        back = tqcli.unpack(packed, tmp_path / "b.safetensors")
        wide = tqcli.unpack(packed, tmp_path / "w.safetensors", dtype=np.float32)
    for path, dtype in ((back, ml_dtypes.bfloat16), (wide, np.float32)):
        with tqcli.open_dump(path) as opened:
            assert opened.tensors[0].dtype == dtype


@pytest.mark.parametrize("name", ["turbo3", "q4_0+rot"])
def test_equal_input_gives_equal_bytes(name: str, qwen: Path, tmp_path: Path) -> None:
    """Two runs, one file: nothing of the clock, the path or a hash seed gets in."""
    first, second = (
        Path(pack(qwen, tmp_path / f"{run}.safetensors", name)).read_bytes() for run in "ab"
    )
    assert first == second
    for run in "ab":
        with tqcli.open_packed(tmp_path / f"{run}.safetensors") as packed:
            tqcli.unpack(packed, tmp_path / f"{run}-back.safetensors")
    backs = [(tmp_path / f"{run}-back.safetensors").read_bytes() for run in "ab"]
    assert backs[0] == backs[1]


def test_every_kernel_writes_the_same_file(kernel: str, smollm: Path, tmp_path: Path) -> None:
    """A cache made on one machine is the cache made on another."""
    from tqcli import kernels

    mine = Path(pack(smollm, tmp_path / "mine.safetensors", "turbo3")).read_bytes()
    with kernels.use("numpy"):
        theirs = Path(pack(smollm, tmp_path / "numpy.safetensors", "turbo3")).read_bytes()
    assert mine == theirs


def test_shards_hold_the_same(qwen: Path, tmp_path: Path) -> None:
    """Cut into many files, a cache and a dump have equal tensors and the same fingerprint."""
    whole = pack(qwen, tmp_path / "whole.safetensors", "turbo3")
    parts = pack(qwen, tmp_path / "parts.safetensors", "turbo3", max_shard_bytes=60_000)
    assert parts.endswith("parts.safetensors.index.json")
    assert len(list(tmp_path.glob("parts-*-of-*.safetensors"))) > 3
    with tqcli.open_packed(whole) as a, tqcli.open_packed(parts) as b:
        assert {n: s.record for n, s in a.stored.items()} == {
            n: s.record for n, s in b.stored.items()
        }
        for name, stored in a.stored.items():
            assert np.array_equal(stored.read(), b.stored[name].read())
        one = tqcli.unpack(a, tmp_path / "one.safetensors")
        many = tqcli.unpack(b, tmp_path / "many.safetensors", max_shard_bytes=1)
    assert len(list(tmp_path.glob("many-*.safetensors"))) == 9  # a tensor each, token_ids too
    with tqcli.open_dump(one) as a, tqcli.open_dump(many) as b:
        assert a.fingerprint() == b.fingerprint()
        assert [t.name for t in a] == [t.name for t in b]
        assert all(
            np.array_equal(x.stored.read(), y.stored.read()) for x, y in zip(a, b, strict=True)
        )


def test_fingerprint_is_of_the_tensors(qwen: Path, smollm: Path, tmp_path: Path) -> None:
    """A copy without any metadata speaks of the same values; another model does not."""
    from safetensors.numpy import save_file

    save_file(load_file(qwen), tmp_path / "bare.safetensors")
    with (
        tqcli.open_dump(qwen) as a,
        tqcli.open_dump(tmp_path / "bare.safetensors") as b,
        tqcli.open_dump(smollm) as c,
    ):
        assert a.fingerprint() == b.fingerprint() != c.fingerprint()
        assert b.source == {}


@pytest.mark.parametrize("limit", [1000, 4096])
def test_pieces_do_not_show(
    limit: int, smollm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read a vector, a few or all at a time: the bytes are the same."""
    expected = Path(pack(smollm, tmp_path / "a.safetensors", "turbo3")).read_bytes()
    real = tensorfile.TensorFile.chunks

    def small(
        self: object, entry: object, axes: int, _: int, checksum: str | None = None
    ) -> object:
        return real(self, entry, axes, limit, checksum)  # type: ignore[arg-type]

    monkeypatch.setattr(tensorfile.TensorFile, "chunks", small)
    path = pack(smollm, tmp_path / "b.safetensors", "turbo3")
    assert Path(path).read_bytes() == expected


@pytest.mark.parametrize(("rule", "zeroed", "skipped"), [("zero", 2, 0), ("skip", 0, 1)])
def test_nonfinite_rules(
    rule: str, zeroed: int, skipped: int, gaussian: Make, tmp_path: Path
) -> None:
    """Values or whole vectors become zero, and the rows say how many."""
    x = gaussian(1, 2, 9, 128)
    x[0, 1, 4, [3, 70]] = np.nan, np.inf
    path = write_dump(tmp_path / "d.safetensors", {"layers.0.k": x, "layers.0.v": np.ones_like(x)})
    types = tqcli.CacheType("turbo3"), tqcli.CacheType("q8_0")
    with tqcli.open_dump(path) as dump:
        packed, rows = tqcli.quantize(dump, tmp_path / "p.safetensors", *types, nonfinite=rule)
    assert [(r["zeroed_values"], r["skipped_vectors"]) for r in rows] == [(zeroed, skipped), (0, 0)]
    clean = x.copy()
    if rule == "zero":
        clean[~np.isfinite(clean)] = 0
    else:
        clean[0, 1, 4] = 0
    expected = tqcli.codec("turbo3").encode(clean)
    assert np.array_equal(load_file(packed)["layers.0.k.blocks"], expected)


def test_values_no_format_can_hold(gaussian: Make, tmp_path: Path) -> None:
    """The error names file, tensor, token, head and dim; nothing is left behind."""
    for bad, where in ((np.nan, "token 4 head 1 dim 3"), (1e30, "token 4 head 1: norm ")):
        x = gaussian(1, 2, 9, 128)
        x[0, 1, 4, 3] = bad
        path = tmp_path / "d.safetensors"
        path.unlink(missing_ok=True)
        write_dump(path, {"layers.5.k": np.ones_like(x), "layers.5.v": x})
        with pytest.raises(InputError) as caught:
            pack(path, tmp_path / "p.safetensors", "turbo3")
        assert str(caught.value).startswith(f"{path}: layers.5.v: {where}")
        assert [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


def test_vanished_vectors_are_reported(gaussian: Make, tmp_path: Path) -> None:
    """A token that decodes to nothing is counted in the row of its tensor."""
    x = gaussian(1, 1, 6, 128)
    x[0, 0, 2] *= np.float32(1e-12)
    path = write_dump(tmp_path / "d.safetensors", {"layers.0.k": x, "layers.0.v": x})
    with tqcli.open_dump(path) as dump:
        kinds = tqcli.CacheType("turbo3"), tqcli.CacheType("turbo3")
        _, rows = tqcli.quantize(dump, tmp_path / "p.safetensors", *kinds)
    assert [row["vanished_vectors"] for row in rows] == [1, 1]


def test_uneven_dumps(gaussian: Make, tmp_path: Path) -> None:
    """Layers missing or of other length, K and V of other head_dim, batches, one empty sequence."""
    tensors = {
        "layers.7.k": gaussian(2, 1, 3, 192),
        "layers.7.v": gaussian(2, 1, 3, 80),
        "layers.2.v": gaussian(1, 4, 5, 64),
        "layers.2.k": gaussian(1, 4, 5, 96),
        "layers.3.k": gaussian(1, 2, 0, 64),
        "layers.3.v": gaussian(1, 2, 0, 64),
    }
    path = write_dump(tmp_path / "d.safetensors", tensors)
    with tqcli.open_packed(pack(path, tmp_path / "p.safetensors", "turbo3")) as packed:
        assert [t.name for t in packed.tensors] == sorted(tensors)
        back = load_file(tqcli.unpack(packed, tmp_path / "b.safetensors"))
    for name, x in tensors.items():
        codec = tqcli.codec("turbo3")
        expected = codec.decode(codec.encode(x), x.shape[-1])
        assert back[name].shape == x.shape
        assert np.array_equal(back[name], expected)


def test_a_head_that_ggml_refuses(gaussian: Make, tmp_path: Path) -> None:
    """The error names the tensor before anything is written."""
    x = gaussian(1, 1, 3, 80)
    path = write_dump(tmp_path / "d.safetensors", {"layers.0.k": x, "layers.0.v": x})
    with pytest.raises(InputError, match=r"layers\.0\.k: q8_0: head_dim 80"):
        pack(path, tmp_path / "p.safetensors", "q8_0")
    assert not (tmp_path / "p.safetensors").exists()


def test_input_and_output_are_two_files(qwen: Path, tmp_path: Path) -> None:
    """Also under another name of the same file, also with force."""
    link = tmp_path / "link.safetensors"
    link.symlink_to(qwen)
    for force in (False, True):
        with pytest.raises(UsageError, match="is the input itself"):
            pack(qwen, link, "turbo3", force=force)


def test_progress_adds_up(qwen: Path, tmp_path: Path) -> None:
    """The bar reaches its end: every byte of K and V, once."""
    seen: list[int] = []
    pack(qwen, tmp_path / "p.safetensors", "turbo3", progress=seen.append)
    plain = load_file(qwen)
    assert sum(seen) == sum(a.nbytes for n, a in plain.items() if n.endswith((".k", ".v")))
