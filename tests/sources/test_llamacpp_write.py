"""Writing llama.cpp save files: what was read comes back, and every type and version is reached."""

from __future__ import annotations

import importlib.util
import json
import sys
import tracemalloc
from dataclasses import replace
from itertools import product
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tqcli.codecs import codec
from tqcli.errors import InputError, TqError, UsageError
from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import dump_record, open_dump
from tqcli.pipeline.dump import write_dump
from tqcli.pipeline.restore import DumpSource, restore
from tqcli.sources.llamacpp.accept import checks
from tqcli.sources.llamacpp.parse import read_layout
from tqcli.sources.llamacpp.source import LlamaCppSource
from tqcli.sources.llamacpp.types import FORKS, LAYOUTS, TypeRules
from tqcli.sources.llamacpp.wish import Wish
from tqcli.sources.llamacpp.write import SaveFileWriter

FOLDER = Path(__file__).parents[2] / "fixtures" / "llamacpp"
_spec = importlib.util.spec_from_file_location("llamacpp_savefile", FOLDER / "savefile.py")
savefile = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = savefile
_spec.loader.exec_module(savefile)

REAL = sorted(path.name for path in FOLDER.glob("*.bin"))
SMOLLM2 = {"heads": 3, "head_dim": 64, "arch": "llama"}
VERSIONS = [("session", 9), ("session", 10), ("session", 11)]
VERSIONS += [("sequence", 2), ("sequence", 3), ("sequence", 4)]
UPSTREAM = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl"]
PAIRS = [*((name, name) for name in UPSTREAM), ("q8_0", "f16"), ("f16", "q4_0")]


def build(tmp_path, *, kind="sequence", version=3, cells=None, dtype=np.float16, **options):
    """A file of two layers, two heads of 64, and its K and V as (side, layer, cells, 128)."""
    cells = [(i, [0]) for i in range(5)] if cells is None else cells
    number = {"float16": 1, "float32": 0}[np.dtype(dtype).name]
    values = np.random.default_rng(23).standard_normal((2, 2, len(cells), 128)).astype(dtype)
    transposed = options.pop("transposed", False)
    k, v = (
        [
            savefile.float_side(values[side, layer], number, transposed=transposed and side == 1)
            for layer in range(2)
        ]
        for side in range(2)
    )
    words = options.pop("words", list(range(10, 10 + len(cells))))
    streams = options.pop("streams", None) or [savefile.Stream(cells, k, v)]
    made = savefile.SaveFile(kind, version, words, streams, **options)
    path = tmp_path / f"{kind}{version}.bin"
    path.write_bytes(made.to_bytes())
    return path, values


def small(path, **options):
    """The source of a built file."""
    arch = {} if read_layout(path).kind == "session" else {"arch": "llama"}
    return LlamaCppSource(path, **({"heads": 2, "head_dim": 64} | arch | options))


def through_a_dump(source, tmp_path, wish=None, **options):
    """Dump a source, and restore the dump."""
    dump, out = tmp_path / "kv.safetensors", tmp_path / "out.bin"
    write_dump(source, dump, force=True)
    with open_dump(dump) as opened:
        restore(DumpSource(opened), dump, out, wish or Wish(), force=True, **options)
    return out


# -- back into the same file -------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in REAL if n.startswith(("f16", "f32"))])
def test_real_files_come_back_byte_for_byte(name, tmp_path):
    """Tokens, cells, order of K, transposed V: nothing but the values is in the dump as numbers."""
    out = through_a_dump(LlamaCppSource(FOLDER / name, **SMOLLM2), tmp_path)
    assert out.read_bytes() == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("name", [n for n in REAL if n.startswith("q")])
def test_real_quantized_files_come_back(name, tmp_path):
    """Everything but the blocks is the same; those were rounded twice."""
    out = through_a_dump(LlamaCppSource(FOLDER / name, **SMOLLM2), tmp_path)
    assert out.stat().st_size == (FOLDER / name).stat().st_size
    both = (LlamaCppSource(path, **SMOLLM2).tensors() for path in (out, FOLDER / name))
    for (_, a), (_, b) in zip(*both, strict=True):
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b)


@pytest.mark.parametrize(("kind", "version"), VERSIONS)
@pytest.mark.parametrize("transposed", [False, True])
def test_every_version_comes_back(kind, version, transposed, tmp_path):
    """Session 9 to 11, sequence 2 to 4."""
    path, _ = build(tmp_path, kind=kind, version=version, transposed=transposed)
    assert through_a_dump(small(path), tmp_path).read_bytes() == path.read_bytes()


ODD_CELLS = {
    "out of order": [(2, [3]), (0, [3]), (1, [3])],
    "shared": [(0, [0, 1]), (1, [0]), (1, [1])],
    "of several lengths": [(0, [0, 5]), (1, [0]), (2, [0]), (1, [5])],
    "with gaps": [(0, [0]), (1, [0]), (7, [0]), (8, [0])],
}


@pytest.mark.parametrize("case", ODD_CELLS)
def test_odd_cells_come_back(case, tmp_path):
    """However cells lie, they lie so again."""
    path, _ = build(tmp_path, kind="session", version=10, cells=ODD_CELLS[case])
    assert through_a_dump(small(path), tmp_path).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("extra", [8, 12])
def test_mrope_cells_come_back(extra, tmp_path):
    """What M-RoPE adds to each cell is kept, though nothing here reads it."""
    path, _ = build(tmp_path, cells=[(0, [0]), (1, [0]), (1, [0]), (2, [0])], cell_extra=extra)
    data = bytearray(path.read_bytes())
    first = 12 + 4 * 4 + 8  # behind magic, version, words, streams and cells
    for cell in range(4):
        at = first + cell * (12 + extra) + 8
        data[at : at + extra] = bytes(range(cell, cell + extra))
    path.write_bytes(data)
    assert through_a_dump(small(path), tmp_path).read_bytes() == path.read_bytes()


def test_streams_come_back(tmp_path):
    """Empty streams keep their places, between and behind those with cells."""
    _, values = build(tmp_path)
    sides = [[savefile.float_side(values[s, i], 1) for i in range(2)] for s in range(2)]
    empty = savefile.Stream([], [], [])
    streams = [
        empty,
        savefile.Stream([(i, [1]) for i in range(5)], *sides),
        empty,
        savefile.Stream([(i + 2, [3]) for i in range(5)], *sides),
        empty,
    ]
    path, _ = build(tmp_path, kind="session", version=11, streams=streams)
    assert through_a_dump(small(path), tmp_path).read_bytes() == path.read_bytes()


def test_one_sequence_of_several(tmp_path):
    """The envelope of `--seq` holds that sequence alone, so it can become a sequence file."""
    path, values = build(tmp_path, kind="session", version=10, cells=ODD_CELLS["shared"])
    out = through_a_dump(small(path, sequence=1), tmp_path, Wish(engine_version="4"))
    save = read_layout(out)
    assert (save.kind, save.version, save.sequences()) == ("sequence", 4, [1])
    rows = np.frombuffer(out.read_bytes(), np.uint8)
    at = save.offset(save.streams[0], "k", 0)
    assert_array_equal(rows[at : at + 512].view(np.float16).reshape(2, 128), values[0, 0][[0, 2]])
    with pytest.raises(InputError, match="2 sequences; a sequence file holds one"):
        through_a_dump(small(path), tmp_path, Wish(engine_version="4"))


def test_unused_cells_are_left_out(tmp_path):
    """A cell of nobody has no values in the dump; the rest is as it was."""
    cells = [(0, [0]), (9, []), (1, [0])]
    path, values = build(tmp_path, cells=cells, words=[5, 6])
    again = small(through_a_dump(small(path), tmp_path))
    got = dict(again.tensors())
    want = dict(small(path).tensors())
    assert_array_equal(got["layers.1.v"], want["layers.1.v"])
    assert values.shape[2] == 3
    assert again.describe().provenance["num_tokens"] == 2


def test_a_packed_list_of_tokens_stays_one(tmp_path):
    """The server's blob is copied word for word; a plain list where a probe has one."""
    blob = [-1, 1, 5, 10, 11, 12, 13, 14, 0]
    path, _ = build(tmp_path, words=blob)
    out = through_a_dump(small(path), tmp_path)
    assert read_layout(out).words.tolist() == blob
    probe, _ = build(tmp_path, version=4)
    out = through_a_dump(small(path), tmp_path, Wish(like=read_layout(probe)))
    assert read_layout(out).words.tolist() == [10, 11, 12, 13, 14]
    path, _ = build(tmp_path, words=blob, version=4)
    plain, _ = build(tmp_path)
    out = through_a_dump(small(plain), tmp_path, Wish(like=read_layout(path)))
    assert read_layout(out).words.tolist() == blob


def test_memory_is_bounded_by_a_layer(tmp_path):
    """Whatever the file's size: a few times one side of one layer."""
    values = np.random.default_rng(31).standard_normal((2048, 128)).astype(np.float16)
    side = [savefile.float_side(values, 1)] * 24
    cells = [(i, [0]) for i in range(2048)]
    path, _ = build(tmp_path, streams=[savefile.Stream(cells, side, side)], words=[1])
    through_a_dump(small(path), tmp_path)  # imports and caches
    tracemalloc.start()
    out = through_a_dump(small(path), tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out.read_bytes() == path.read_bytes()
    assert peak < 8 * values.nbytes < path.stat().st_size / 4


# -- into another version or type ------------------------------------------------------------------


@pytest.mark.parametrize("source", VERSIONS)
@pytest.mark.parametrize("target", ["2", "3", "4", "9", "10", "11"])
def test_every_version_becomes_every_other(source, target, tmp_path):
    """Tokens and values are the same in all of them."""
    path, _ = build(tmp_path, kind=source[0], version=source[1])
    out = tmp_path / "out.bin"
    restore(small(path), path, out, Wish(engine_version=target))
    assert str(read_layout(out).version) == target
    for (_, a), (_, b) in zip(small(path).tensors(), small(out).tensors(), strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("release", "version"), [("0.7.0", 4), ("v0.6", 4), ("0.5.9", 3), ("0.4.1", 2), ("1.0.0", 4)]
)
def test_versions_by_release(release, version, tmp_path):
    """People know which llama-server they run."""
    path, _ = build(tmp_path)
    out = tmp_path / "out.bin"
    restore(small(path), path, out, Wish(engine_version=release))
    assert read_layout(out).version == version


@pytest.mark.parametrize(
    ("k", "v"), [*((t, t) for t in UPSTREAM), ("q8_0", "f16"), ("f16", "q4_0")]
)
@pytest.mark.parametrize("version", ["3", "4"])
def test_every_upstream_type_is_written(k, v, version, tmp_path):
    """Decoded, each value is what the codec with llama.cpp's rotation makes of the original."""
    path, _ = build(tmp_path, dtype=np.float32)
    out = tmp_path / "out.bin"
    wish = Wish(engine_version=version, type_k=k, type_v=v, rotation="default")
    restore(small(path), path, out, wish)
    save = read_layout(out)
    coded = [name not in ("f32", "f16", "bf16") for name in (k, v)]
    assert save.rotation == (None if version == "3" else (64 * coded[0], 64 * coded[1]))
    got, want = dict(small(out).tensors()), dict(small(path).tensors())
    for side, name, rotated in (("k", k, coded[0]), ("v", v, coded[1])):
        one = codec(f"{name}+rot64" if rotated else name)
        values = want[f"layers.1.{side}"]
        if side == "k":  # llama's K is coded with its halves interleaved
            values = np.stack([values[..., :32], values[..., 32:]], axis=-1).reshape(values.shape)
        decoded = one.decode(one.encode(values))
        if side == "k":
            decoded = np.concatenate([decoded[..., 0::2], decoded[..., 1::2]], axis=-1)
        assert_array_equal(got[f"layers.1.{side}"].astype(np.float32), decoded)


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_transposed_v_of_every_float_type(name, tmp_path):
    """Without flash attention V lies by dimension; read back it is the same V."""
    path, _ = build(tmp_path)
    out = tmp_path / "out.bin"
    wish = Wish(engine_version="4", type_k="q8_0", type_v=name, flash_attention=False)
    restore(small(path), path, out, wish)
    assert read_layout(out).v_trans
    got, want = dict(small(out).tensors()), dict(small(path).tensors())
    dtype = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}[name]
    assert_array_equal(got["layers.1.v"], want["layers.1.v"].astype(dtype))


def test_a_quantized_v_needs_flash_attention(tmp_path):
    """llama.cpp refuses it as well."""
    path, _ = build(tmp_path, transposed=True)
    with pytest.raises(UsageError, match="V of type q8_0 without flash attention"):
        restore(small(path), path, tmp_path / "out.bin", Wish(type_v="q8_0", rotation=64))
    assert not (tmp_path / "out.bin").exists()


def test_rotation_of_wide_heads(tmp_path):
    """K by the largest power of two that divides the head, V by 64: both stand in the file."""
    path, _ = build(tmp_path)
    source = small(path, heads=1, head_dim=128)
    out = tmp_path / "out.bin"
    restore(source, path, out, Wish(engine_version="4", type_k="q8_0", type_v="q8_0"))
    assert read_layout(out).rotation == (128, 64)
    for rotation, recorded in (("none", (0, 0)), (64, (64, 64))):
        wish = Wish(engine_version="4", type_k="q4_0", type_v="q4_0", rotation=rotation)
        restore(source, path, out, wish, force=True)
        assert read_layout(out).rotation == recorded


def test_rotation_must_be_said_where_it_is_not_recorded(tmp_path):
    """A version 3 file of either kind looks the same and only one of them is right."""
    path, _ = build(tmp_path)
    with pytest.raises(UsageError, match=r"version 3 does not record .* --rotation default"):
        restore(small(path), path, tmp_path / "out.bin", Wish(type_k="q8_0"))
    probe = tmp_path / "probe.bin"
    wish = Wish(type_k="q8_0", rotation="default")
    restore(small(path), path, probe, wish)
    with pytest.raises(UsageError, match=r"probe\.bin: version 3 does not record"):
        restore(small(path), path, tmp_path / "out.bin", Wish(like=read_layout(probe)))
    wish = Wish(like=read_layout(probe), rotation="default")
    restore(small(path), path, tmp_path / "out.bin", wish)
    assert (tmp_path / "out.bin").read_bytes() == probe.read_bytes()


@pytest.mark.parametrize(
    ("fork", "layout"),
    [
        (fork, layout)
        for fork in ("f9841e0ad", "thetom-2026-05", "thetom", "buun")
        for layout in dict.fromkeys(name for names in FORKS[fork].values() for name in names)
        if layout in LAYOUTS and "qjl" not in layout
    ],
)
def test_turbo_types_of_forks(fork, layout, tmp_path):
    """Padded to whole groups, under the fork's number, without llama.cpp's rotation."""
    path, _ = build(tmp_path, dtype=np.float32, version=2)
    out, one = tmp_path / "out.bin", codec(layout)
    wish = Wish(type_v=layout, rules=TypeRules(fork), flash_attention=True)
    restore(small(path), path, out, wish)
    save = read_layout(out)
    number = next(n for n, names in FORKS[fork].items() if layout in names)
    assert {rows.type for rows in save.v} == {number}
    assert {rows.row_bytes for rows in save.v} == {2 * np.prod(one.blocks_shape(64))}
    got = dict(small(out, fork=fork, layouts=[layout]).tensors())
    want = dict(small(path).tensors())["layers.1.v"]
    assert_array_equal(got["layers.1.v"], one.decode(one.encode(want), 64))
    again = through_a_dump(small(out, fork=fork, layouts=[layout]), tmp_path, Wish())
    assert read_layout(again).v == save.v


def test_types_that_no_file_holds(tmp_path):
    """The message lists those that one can."""
    path, _ = build(tmp_path)
    for name, rules in (("turbo3-g64", TypeRules("thetom")), ("turbo3", TypeRules())):
        with pytest.raises(UsageError, match=f"cache type {name}: no save file .* legal: f32, f16"):
            restore(small(path), path, tmp_path / "out.bin", Wish(type_k=name, rules=rules))
    with pytest.raises(UsageError, match="--engine-version 5: give a release"):
        restore(small(path), path, tmp_path / "out.bin", Wish(engine_version="5"))


# -- like a probe ----------------------------------------------------------------------------------


def probe_of(path, tmp_path, **wish):
    """A file as another server would save it."""
    out = tmp_path / "probe.bin"
    restore(small(path), path, out, Wish(**wish), force=True)
    return out


def test_like_a_probe_is_what_the_probe_is(tmp_path):
    """Version, types, rotation, transposition, streams: all but cells and tokens."""
    _, values = build(tmp_path)
    sides = [[savefile.float_side(values[s, i], 1) for i in range(2)] for s in range(2)]
    cells = [(i, [1]) for i in range(5)]
    streams = [savefile.Stream([], [], []), savefile.Stream(cells, *sides)]
    base, _ = build(tmp_path, version=4, streams=streams, words=[1, 2])
    probe = probe_of(base, tmp_path, type_k="q8_0", flash_attention=False)
    path, _ = build(tmp_path, version=2, cells=[(i, [0]) for i in range(3)], words=[7, 8, 9])
    out = tmp_path / "out.bin"
    restore(small(path), path, out, Wish(like=read_layout(probe)))
    save, wanted = read_layout(out), read_layout(probe)
    assert [check.refusal for check in checks(save, wanted) if check.refusal] == []
    assert save.tokens.tolist() == [7, 8, 9]
    assert [stream.index for stream in save.streams] == [1]
    assert save.stream_count == 2


def test_a_probe_of_another_model(tmp_path):
    """Other layers or heads are found before anything is written."""
    path, _ = build(tmp_path)
    source = LlamaCppSource(FOLDER / "f16-flash-slot.bin", **SMOLLM2)
    out = tmp_path / "out.bin"
    with pytest.raises(InputError, match=r"2 layers; .* has 30; save a probe"):
        restore(source, "kv", out, Wish(like=read_layout(path)))
    wider = LlamaCppSource(path, heads=1, head_dim=128, arch="llama")
    narrow, _ = build(tmp_path, version=4)
    probe = read_layout(narrow)
    halved = replace(probe, k=tuple(replace(rows, row_bytes=128) for rows in probe.k))
    with pytest.raises(InputError, match="rows of 128 bytes; bytes of 1 heads of 128 values"):
        restore(wider, "kv", out, Wish(like=halved))
    assert not out.exists()


def test_what_a_probe_says_is_not_said_again(tmp_path):
    """Two answers to one question are a mistake."""
    path, _ = build(tmp_path, version=4)
    like = read_layout(path)
    for wish in (
        {"type_k": "f16"}, {"type_v": "q8_0"}, {"engine_version": "4"},
        {"flash_attention": True}, {"rotation": "none"},
    ):  # fmt: skip
        with pytest.raises(UsageError, match="says it; leave one of them out"):
            Wish(like=like, **wish)


def test_an_empty_probe_and_mrope(tmp_path):
    """A probe without a cell names no types; cells of another width would be misread."""
    path, _ = build(tmp_path)
    empty = tmp_path / "empty.bin"
    stream = savefile.Stream([], [], [])
    empty.write_bytes(savefile.SaveFile("sequence", 3, [], [stream]).to_bytes())
    with pytest.raises(InputError, match=r"0 layers; .* with a prompt in its cache"):
        restore(small(path), path, tmp_path / "out.bin", Wish(like=read_layout(empty)))
    wide, _ = build(tmp_path, version=4, cell_extra=12)
    with pytest.raises(InputError, match="cells with 12 extra bytes"):
        restore(small(path), path, tmp_path / "out.bin", Wish(like=read_layout(wide)))


# -- tensors that no save file is behind ----------------------------------------------------------


def plain_dump(tmp_path, source=None, *, batch=1, tokens=True, layers=(0, 1), dtype=np.float32):
    """A dump as a model run leaves it."""
    rng = np.random.default_rng(29)
    path = tmp_path / "plain.safetensors"
    arrays = {}
    if tokens:
        arrays["token_ids"] = np.arange(6 * batch, dtype=np.int32).reshape(batch, 6)
    for layer in layers:
        for side in "kv":
            x = rng.standard_normal((batch, 2, 6, 64)).astype(dtype)
            arrays[f"layers.{layer}.{side}"] = x
    specs = [(name, a.dtype, a.shape) for name, a in arrays.items()]
    with ContainerWriter(path, specs, dump_record(source or {}, "original", "t"), force=True) as w:
        for name, array in arrays.items():
            w.write(name, [array])
    return path, arrays


def restored(path, tmp_path, wish, **options):
    """Restore a dump."""
    out = tmp_path / "out.bin"
    with open_dump(path) as opened:
        restore(DumpSource(opened), path, out, wish, force=True, **options)
    return out


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_a_model_run_becomes_a_slot(arch, tmp_path):
    """With the architecture, K goes into the order that llama.cpp has it in."""
    path, arrays = plain_dump(tmp_path)
    out = restored(path, tmp_path, Wish(engine_version="0.7.0"), arch=arch)
    got = dict(LlamaCppSource(out, heads=2, head_dim=64, arch=arch).tensors())
    for name, want in arrays.items():
        assert_array_equal(got[name], want.astype(np.float16) if want.dtype != np.int32 else want)
    raw = dict(LlamaCppSource(out, heads=2, head_dim=64).tensors())["layers.0.k"]
    assert (raw == got["layers.0.k"]).all() == (arch == "qwen2")


def test_what_a_model_run_must_say(tmp_path):
    """The version, the architecture, the tokens; one sequence."""
    path, _ = plain_dump(tmp_path)
    with pytest.raises(UsageError, match=r"comes from no save file; give --like .* --engine-vers"):
        restored(path, tmp_path, Wish(), arch="llama")
    wish = Wish(engine_version="4")
    with pytest.raises(UsageError, match=r"architecture unknown: the order .* give --model"):
        restored(path, tmp_path, wish)
    path, _ = plain_dump(tmp_path, tokens=False)
    with pytest.raises(InputError, match="the token ids are not known"):
        restored(path, tmp_path, wish, arch="llama")
    path, _ = plain_dump(tmp_path, batch=2)
    with pytest.raises(InputError, match="2 sequences; one can be restored"):
        restored(path, tmp_path, wish, arch="llama")
    path, _ = plain_dump(tmp_path, {"k": "before RoPE"})
    with pytest.raises(InputError, match="K before RoPE"):
        restored(path, tmp_path, wish, arch="llama")
    path, _ = plain_dump(tmp_path, {"layer_kinds": {"1": "sliding_attention"}})
    with pytest.raises(InputError, match="layer 1 is sliding_attention"):
        restored(path, tmp_path, wish, arch="llama")
    assert not (tmp_path / "out.bin").exists()


def test_a_session_file_names_the_architecture(tmp_path):
    """It is refused by another model; this much the loader checks."""
    path, _ = plain_dump(tmp_path)
    out = restored(path, tmp_path, Wish(engine_version="11"), arch="qwen2")
    assert read_layout(out).arch == "qwen2"
    other, _ = build(tmp_path, kind="session", version=11)
    with pytest.raises(InputError, match="of a qwen2 model; the file says llama"):
        restored(path, tmp_path, Wish(like=read_layout(other)), arch="qwen2")


def test_a_value_that_the_type_cannot_hold(tmp_path):
    """Cell and head are named, and nothing is written."""
    path, arrays = plain_dump(tmp_path)
    arrays["layers.1.v"][0, 1, 4, 3] = 1e6
    specs = [(name, a.dtype, a.shape) for name, a in arrays.items()]
    with ContainerWriter(path, specs, dump_record({}, "original", "t"), force=True) as writer:
        for name, array in arrays.items():
            writer.write(name, [array])
    with pytest.raises(InputError, match=r"layer 1 v: cell 4 head 1: 1000000.0 is beyond f16"):
        restored(path, tmp_path, Wish(engine_version="4"), arch="llama")
    assert not (tmp_path / "out.bin").exists()
    assert not list(tmp_path.glob(".*"))


def test_some_layers_are_not_a_cache(tmp_path):
    """The envelope knows how many there were."""
    path, _ = build(tmp_path)
    dump, part = tmp_path / "kv.safetensors", tmp_path / "part.safetensors"
    write_dump(small(path), dump)
    with open_dump(dump) as opened:
        kept = [(n, s) for n, s in opened.stored.items() if not n.startswith("layers.1")]
        specs = [(n, s.entry.dtype, s.entry.shape) for n, s in kept]
        with ContainerWriter(part, specs, dump_record(opened.source, "original", "t")) as writer:
            for name, stored in kept:
                writer.write(name, [stored.read()])
    with pytest.raises(InputError, match=r"tensors of 1 layers.* restore all that was dumped"):
        restored(part, tmp_path, Wish())


# -- hostile envelopes -------------------------------------------------------------------------

EXTREMES = [None, True, -1, 0, 2**31, 2**63, 1.5, "", "x", "AAAA", [], {}, [[]], [[1, 1, 1, 1]]]


def fields(record, at=()):
    """Every path to a value inside an envelope."""
    items = record.items() if isinstance(record, dict) else enumerate(record)
    for key, value in items:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from fields(value, (*at, key))


def refusal(source, out):
    """What restoring says; None if it writes a file."""
    try:
        restore(source, "kv", out, Wish(), force=True)
    except TqError as error:
        return str(error)
    return None


def test_every_field_of_an_envelope_at_its_extremes(tmp_path):
    """A typed error of one line and no file; or a file that reads back."""
    path, _ = build(tmp_path, kind="session", version=11, cells=ODD_CELLS["shared"])
    source, out = small(path), tmp_path / "out.bin"
    info = source.describe()
    text = json.dumps(info.provenance["envelope"])
    refusals = 0
    for place, value in product(fields(json.loads(text)), EXTREMES):
        envelope = json.loads(text)
        inner = envelope
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        bent = replace(info, provenance={**info.provenance, "envelope": envelope})
        source.describe = lambda bent=bent: bent
        if (refused := refusal(source, out)) is None:
            read_layout(out)
            out.unlink()
        else:
            assert "\n" not in refused
            refusals += 1
        assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]
    assert refusals > 300


def test_a_run_that_is_longer_than_the_tensors(tmp_path):
    """A count in an envelope makes no array before it is compared with what is there."""
    path, _ = build(tmp_path)
    source = small(path)
    info = source.describe()
    envelope = json.loads(json.dumps(info.provenance["envelope"]))
    envelope["streams"][0]["cells"] = "AAAAAP///38BAAAAAAAAAA=="  # 0, 2**31 - 1, 1, 0
    source.describe = lambda: replace(info, provenance={**info.provenance, "envelope": envelope})
    with pytest.raises(InputError, match="'cells: count'; a number from 1 to 5 is expected"):
        restore(source, "kv", tmp_path / "out.bin", Wish())


# -- the writer alone ----------------------------------------------------------------------------


def write_all(path, target, tensors):
    """Write tensors in this order."""
    with SaveFileWriter(path, target) as writer:
        for tensor in tensors:
            writer.write(*tensor)


def test_a_writer_wants_every_tensor_once(tmp_path):
    """A layer that is missing, comes twice or has another shape leaves no file."""
    path, _ = build(tmp_path)
    target, _ = restore(small(path), path, tmp_path / "good.bin", Wish())
    values = dict(small(path).tensors())["layers.0.k"]
    out = tmp_path / "out.bin"
    wrong = {
        "layer 0 v was never written": [("k", 0, values), ("k", 1, values), ("v", 1, values)],
        "layer 0 k: comes twice": [("k", 0, values), ("k", 0, values)],
        r"layer 0 k: \(1, 2, 4, 64\)": [("k", 0, values[:, :, :-1])],
    }
    for message, tensors in wrong.items():
        with pytest.raises(InputError, match=message):
            write_all(out, target, tensors)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))
