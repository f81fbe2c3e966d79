"""llama.cpp save files: real ones against transformers, and every version of the container."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tqcli.codecs import codec
from tqcli.errors import InputError, UsageError
from tqcli.rope import Rope, remove_rope
from tqcli.sources.base import PackedSource, Source, tokens_sha256
from tqcli.sources.detect import kind_of
from tqcli.sources.llamacpp.rows import deinterleave
from tqcli.sources.llamacpp.source import LlamaCppSource

FOLDER = Path(__file__).parents[2] / "fixtures" / "llamacpp"
_spec = importlib.util.spec_from_file_location("llamacpp_savefile", FOLDER / "savefile.py")
savefile = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = savefile
_spec.loader.exec_module(savefile)

SMOLLM2 = {"heads": 3, "head_dim": 64, "arch": "llama"}
# Largest error of any layer, relative to the layer's length, against transformers in float32.
# The cache type accounts for the first layer; later ones add what attention over a quantized
# cache did to their input.
LIMITS = {
    "f32-noflash-seq.bin": (1e-5, 1e-5),
    "f16-flash-slot.bin": (1e-3, 1e-3),
    "f16-noflash-session.bin": (1e-3, 1e-3),
    "q8_0-flash-seq.bin": (1e-2, 1.7e-2),
    "q4_0-flash-session.bin": (0.15, 0.22),
    "q8_0-flash-streams-session.bin": (1e-2, 1.7e-2),
}


@pytest.fixture(scope="module")
def expected():
    """K and V of every layer, and the tokens, as transformers computed them."""
    with np.load(FOLDER / "expected.npz") as data:
        return {name: data[name] for name in data.files}


def load(name, **options):
    """Tensors of a fixture by name."""
    return dict(LlamaCppSource(FOLDER / name, **(SMOLLM2 | options)).tensors())


def relative(got, want):
    """Length of the difference, relative to what was expected."""
    got, want = got.astype(np.float64), want.astype(np.float64)
    return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize("name", LIMITS)
def test_agrees_with_transformers_in_every_layer(name, expected):
    """Two programs, one model: layout, rotation and K order are all right or the error is 1."""
    tensors = load(name, sequence=0)
    for layer in range(30):
        for side, limit in zip("kv", LIMITS[name], strict=True):
            got = tensors[f"layers.{layer}.{side}"][0]
            assert relative(got, expected[side][layer]) < limit, (layer, side)


@pytest.mark.parametrize(("name", "limit"), [("q8_0-flash-seq.bin", 1.5e-2)])
def test_quantized_cache_over_all_layers(name, limit, expected):
    """The figure that the format page promises holds for the cache as a whole."""
    tensors = load(name)
    for side in "kv":
        got = np.stack([tensors[f"layers.{i}.{side}"][0] for i in range(30)])
        assert relative(got, expected[side]) < limit


@pytest.mark.parametrize("name", ["q8_0-flash-seq.bin", "q4_0-flash-session.bin"])
def test_first_layer_costs_what_the_codec_costs(name, expected):
    """Nothing was quantized before layer 0, so our codec on the float K must cost as much."""
    got = load(name)["layers.0.k"][0]
    own = codec(f"{name.split('-')[0]}+rot64")
    decoded = own.decode(own.encode(expected["k"][0]), 64)
    cost = relative(decoded, expected["k"][0])
    assert relative(got, expected["k"][0]) == pytest.approx(cost, rel=0.1)


def test_rotation_left_in_is_seen(expected):
    """Reading a rotated cache as if it were not gives vectors that are unrelated: error 1.41."""
    wrong = load("q8_0-flash-seq.bin", rotation="none")["layers.3.k"][0]
    assert relative(wrong, expected["k"][3]) > 0.5


def test_order_of_k_matters(expected):
    """Without the architecture K stays interleaved, and the source says so."""
    source = LlamaCppSource(FOLDER / "f32-noflash-seq.bin", heads=3, head_dim=64)
    stored = dict(source.tensors())["layers.0.k"]
    assert relative(stored[0], expected["k"][0]) > 0.5
    assert relative(deinterleave(stored)[0], expected["k"][0]) < 1e-5
    assert any("architecture is unknown" in note for note in source.describe().notes)


def test_describe_promises_what_comes():
    """Specs are names, shapes and dtypes of the tensors, in the same order."""
    for name in LIMITS:
        source = LlamaCppSource(FOLDER / name, **SMOLLM2)
        promised = [(s.name, s.shape, s.dtype) for s in source.describe().tensors]
        assert promised == [(n, a.shape, a.dtype.name) for n, a in source.tensors()]


def test_save_files_are_told_by_their_first_bytes(tmp_path):
    """`tq dump` finds the right reader without a flag, and no error on the way."""
    assert {kind_of([str(FOLDER / name)]) for name in LIMITS} == {"llama.cpp"}
    assert kind_of([str(FOLDER / "expected.npz")]) == "arrays"
    assert kind_of([str(tmp_path)]) == "arrays"
    with pytest.raises(UsageError, match="no such source"):
        kind_of([str(tmp_path / "missing")])


def test_is_a_source():
    """It offers what every source offers, and packed blocks besides."""
    source = LlamaCppSource(FOLDER / "f16-flash-slot.bin", **SMOLLM2)
    assert isinstance(source, Source)
    assert isinstance(source, PackedSource)


@pytest.mark.parametrize("name", ["f16-flash-slot.bin", "f16-noflash-session.bin"])
def test_tokens_and_provenance(name, expected):
    """Plain and packed token lists give the same ids, and the record says where they are from."""
    source = LlamaCppSource(FOLDER / name, **SMOLLM2)
    record = source.describe().provenance
    tensors = dict(source.tensors())
    assert_array_equal(tensors["token_ids"], expected["tokens"][None])
    assert_array_equal(tensors["positions"], np.arange(5)[None])
    assert record["tokens_sha256"] == tokens_sha256(expected["tokens"])
    assert record["num_tokens"] == 5
    assert record["positions"] == [[[0, 5]]]
    assert record["architecture"] == "llama"
    assert record["v_transposed"] == ("noflash" in name)


def test_rows_on_disk_are_not_read_by_describe(tmp_path):
    """Inspecting touches the headers only: a file whose rows are zeros describes the same."""
    path = FOLDER / "f16-flash-slot.bin"
    info = LlamaCppSource(path, **SMOLLM2).describe()
    data = bytearray(path.read_bytes())
    data[-1920:] = bytes(1920)  # the last layer's V
    other = tmp_path / path.name
    other.write_bytes(data)
    assert LlamaCppSource(other, **SMOLLM2).describe() == info


def test_streams_by_sequence(expected):
    """Two sequences in two streams: each alone, or one after the other as their lengths differ."""
    name = "q8_0-flash-streams-session.bin"
    first, second = (load(name, sequence=s)["layers.7.v"] for s in (0, 1))
    both = load(name)["layers.7.v"]
    assert first.shape == (1, 3, 5, 64)
    assert second.shape == (1, 3, 4, 64)
    assert_array_equal(both, np.concatenate([first, second], axis=2))
    assert_array_equal(second, first[:, :, :4])  # the same prompt, computed by itself
    with pytest.raises(UsageError, match="no sequence 5; it holds: 0, 1"):
        LlamaCppSource(FOLDER / name, **SMOLLM2, sequence=5)


@pytest.mark.parametrize("name", ["q8_0-flash-seq.bin", "f16-noflash-session.bin"])
def test_packed_rows_are_the_files_bytes(name):
    """Blocks come untouched, under the codec id that decodes them to the same values."""
    source = LlamaCppSource(FOLDER / name, **SMOLLM2)
    tensors = dict(source.tensors())
    raw = (FOLDER / name).read_bytes()
    seen = 0
    for tensor, kind, blocks in source.packed():
        decoded = codec(kind).decode(blocks, 64)
        if tensor.endswith(".k"):
            decoded = deinterleave(decoded)
        assert_array_equal(decoded, tensors[tensor].astype(np.float32))
        if "noflash" not in name:
            rows = blocks[0].swapaxes(0, 1).tobytes()  # (seq, heads, ...) as in the file
            seen += raw.count(rows) == 1
    assert seen == (0 if "noflash" in name else 60)


def test_same_token_same_k_before_rope():
    """First and last token are one word: RoPE as recorded takes the first layer's K back to it."""
    source = LlamaCppSource(FOLDER / "f32-noflash-seq.bin", **SMOLLM2)
    tensors = dict(source.tensors())
    rope = Rope("default", tuple((100000.0 ** (-np.arange(0, 64, 2) / 64)).tolist()))
    k = remove_rope(tensors["layers.0.k"], tensors["positions"][0], rope)
    assert relative(k[:, :, 4], k[:, :, 0]) < 1e-6
    assert relative(tensors["layers.0.k"][:, :, 4], tensors["layers.0.k"][:, :, 0]) > 0.1


# -- what the real files do not show ------------------------------------------------------------


def small(kind="sequence", version=3, *, heads=2, head_dim=64, cells=None, **options):
    """A two-layer file of float32 rows; K and V as ``(layer, cells, heads * head_dim)``."""
    rng = np.random.default_rng(7)
    cells = [(i, [0]) for i in range(4)] if cells is None else cells
    values = rng.standard_normal((2, 2, len(cells), heads * head_dim)).astype(np.float32)
    make = savefile.float_side
    k, v = ([make(values[side, layer], 0) for layer in range(2)] for side in range(2))
    words = options.pop("words", list(range(10, 10 + len(cells))))
    made = savefile.SaveFile(kind, version, words, [savefile.Stream(cells, k, v)], **options)
    return made, values


def write(tmp_path, made, name="save.bin"):
    """Put a built file on disk."""
    path = tmp_path / name
    path.write_bytes(made.to_bytes())
    return path


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        (kind, v)
        for kind, first in (("session", 9), ("sequence", 2))
        for v in range(first, first + 3)
    ],
)
def test_every_version_of_the_container(kind, version, tmp_path):
    """Session 9 to 11 and sequence 2 to 4 hold the same tensors."""
    made, values = small(kind, version, arch="qwen2")
    arch = {} if kind == "session" else {"arch": "qwen2"}
    source = LlamaCppSource(write(tmp_path, made), heads=2, head_dim=64, **arch)
    got = dict(source.tensors())
    assert_array_equal(got["layers.1.k"][0].swapaxes(0, 1).reshape(4, -1), values[0, 1])
    assert_array_equal(got["layers.1.v"][0].swapaxes(0, 1).reshape(4, -1), values[1, 1])
    assert source.describe().provenance["file_version"] == version


def test_recorded_rotation_is_undone(tmp_path):
    """A newer file says 64 and 0: K is rotated back even though it is float, V is left alone."""
    made, values = small(version=4, rotation=(64, 0), arch="qwen2")
    got = dict(LlamaCppSource(write(tmp_path, made), head_dim=64, arch="qwen2").tensors())
    sylvester = np.array([[1.0]])
    for _ in range(6):
        sylvester = np.block([[sylvester, sylvester], [sylvester, -sylvester]])
    want = values[0, 0].reshape(4, 2, 64) @ sylvester / 8
    np.testing.assert_allclose(got["layers.0.k"][0].swapaxes(0, 1), want, atol=1e-5)
    assert_array_equal(got["layers.0.v"][0].swapaxes(0, 1).reshape(4, -1), values[1, 0])


def test_old_quantized_file_needs_a_word(tmp_path):
    """Version 2 was written with and without rotation, so the reader asks instead of guessing."""
    kind = codec("q8_0")
    x = np.random.default_rng(11).standard_normal((3, 2, 64)).astype(np.float32)
    side = savefile.Side(8, kind.encode(x).reshape(3, -1))
    made = savefile.SaveFile(
        "sequence", 2, [1, 2, 3], [savefile.Stream([(i, [0]) for i in range(3)], [side], [side])]
    )
    path = write(tmp_path, made)
    options = {"heads": 2, "head_dim": 64, "arch": "qwen2"}
    with pytest.raises(InputError, match=r"layers\.0\.k: q8_0 in a sequence file of version 2"):
        list(LlamaCppSource(path, **options).tensors())
    plain = dict(LlamaCppSource(path, **options, rotation="none").tensors())
    assert_array_equal(plain["layers.0.k"][0].swapaxes(0, 1), kind.decode(kind.encode(x)))
    turned = dict(LlamaCppSource(path, **options, rotation=64).tensors())
    assert_array_equal(
        turned["layers.0.k"][0].swapaxes(0, 1), codec("q8_0+rot64").decode(kind.encode(x))
    )
    with pytest.raises(UsageError, match="--rotation 48"):
        LlamaCppSource(path, **options, rotation=48)


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl"])
def test_every_upstream_type(name, tmp_path):
    """All cache types of llama.cpp decode as their codec says."""
    number = {"q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20}[name]
    kind = codec(name)
    x = np.random.default_rng(13).standard_normal((3, 2, 32)).astype(np.float32)
    side = savefile.Side(number, kind.encode(x).reshape(3, -1))
    made = savefile.SaveFile(
        "sequence", 3, [1, 2, 3], [savefile.Stream([(i, [0]) for i in range(3)], [side], [side])]
    )
    source = LlamaCppSource(write(tmp_path, made), heads=2, head_dim=32, arch="qwen2")
    got = dict(source.tensors())["layers.0.v"]
    assert_array_equal(got[0].swapaxes(0, 1), kind.decode(kind.encode(x)))
    assert source.describe().tensors[-1].stored == name


def test_bfloat16_transposed(tmp_path):
    """A transposed V of bfloat16 keeps its type."""
    dtype = codec("bf16").dtype
    x = np.random.default_rng(17).standard_normal((3, 128)).astype(dtype)
    k = savefile.float_side(x, 30)
    v = savefile.float_side(x, 30, transposed=True)
    cells = [(i, [0]) for i in range(3)]
    made = savefile.SaveFile("sequence", 3, [1, 2, 3], [savefile.Stream(cells, [k], [v])])
    got = dict(LlamaCppSource(write(tmp_path, made), heads=2, arch="qwen2").tensors())
    assert got["layers.0.v"].dtype == dtype
    assert_array_equal(got["layers.0.v"], got["layers.0.k"])


def test_cells_are_sorted_and_unused_ones_dropped(tmp_path):
    """Cells lie in any order; a sequence comes by position, and a cell of nobody does not come."""
    cells = [(2, [3]), (0, [3]), (9, []), (1, [3])]
    made, values = small(cells=cells, words=[50, 51, 52])
    source = LlamaCppSource(write(tmp_path, made), heads=2, arch="qwen2")
    got = dict(source.tensors())
    rows = got["layers.0.k"][0].swapaxes(0, 1).reshape(3, -1)
    assert_array_equal(rows, values[0, 0][[1, 3, 0]])
    assert_array_equal(got["positions"], [[0, 1, 2]])
    assert_array_equal(got["token_ids"], [[50, 51, 52]])
    notes = " | ".join(source.describe().notes)
    assert "out of order" in notes
    assert "1 cells belong to no sequence" in notes


def test_sequences_may_share_cells(tmp_path):
    """A common prefix is stored once; both sequences get it, as a batch if they are as long."""
    cells = [(0, [0, 1]), (1, [0]), (1, [1])]
    made, values = small(cells=cells)
    got = dict(LlamaCppSource(write(tmp_path, made), heads=2, arch="qwen2").tensors())
    k = got["layers.1.k"].swapaxes(1, 2).reshape(2, 2, -1)
    assert_array_equal(k[0], values[0, 1][[0, 1]])
    assert_array_equal(k[1], values[0, 1][[0, 2]])


@pytest.mark.parametrize("extra", [8, 12])
def test_mrope_cells_are_found_out(extra, tmp_path):
    """M-RoPE widens the cells without a word in the header; only one width reads to the end."""
    cells = [(0, [0]), (1, [0]), (1, [0]), (2, [0])]  # an image repeats its position
    made, values = small(cells=cells, cell_extra=extra)
    source = LlamaCppSource(write(tmp_path, made), heads=2, arch="qwen2vl")
    got = dict(source.tensors())
    assert_array_equal(got["layers.0.k"][0].swapaxes(0, 1).reshape(4, -1), values[0, 0])
    assert f"({extra} extra bytes)" in " ".join(source.describe().notes)


def test_packed_tokens_with_media(tmp_path):
    """Media chunks in a slot's token blob are stepped over, and the note counts them."""
    chunk = [7, 0x01020304, 0x00070605, 0]  # 7 bytes, then the fill of the last word
    words = [-1, 1, 4, 10, -1, -1, 11, 1, 1, *chunk[:3]]
    made, _ = small(words=words)
    source = LlamaCppSource(write(tmp_path, made), heads=2, arch="qwen2")
    assert "1 media chunks" in " ".join(source.describe().notes)
    made, _ = small(words=[-1, 2, 0, 0])
    with pytest.raises(InputError, match="packed tokens of version 2; known: 1"):
        LlamaCppSource(write(tmp_path, made))
    made, _ = small(words=[-1, 1, 9, 1, 2])
    with pytest.raises(InputError, match="9 tokens needs 36 bytes"):
        LlamaCppSource(write(tmp_path, made))


def test_empty_streams(tmp_path):
    """A stream without cells has nothing more; a file of them is empty, which is no error."""
    made, values = small()
    made.streams = [savefile.Stream([], [], []), *made.streams]
    got = dict(LlamaCppSource(write(tmp_path, made), heads=2, arch="qwen2").tensors())
    assert_array_equal(got["layers.0.k"][0].swapaxes(0, 1).reshape(4, -1), values[0, 0])
    made.streams = made.streams[:1]
    info = LlamaCppSource(write(tmp_path, made)).describe()
    assert info.tensors == ()
    assert info.notes == ("the cache is empty",)


def test_without_heads_it_can_be_inspected_only(tmp_path):
    """`tq inspect` needs no model; reading does, and says which options give it."""
    source = LlamaCppSource(FOLDER / "q8_0-flash-seq.bin")
    info = source.describe()
    assert info.tensors[2].shape == (1, 1, 5, 192)
    assert "heads are unknown" in info.notes[-1]
    with pytest.raises(UsageError, match="give --model"):
        next(iter(dict(source.tensors())))
    for options in ({"heads": 3}, {"head_dim": 64}):  # one gives the other
        shape = LlamaCppSource(FOLDER / "q8_0-flash-seq.bin", **options).describe().tensors[2].shape
        assert shape == (1, 3, 5, 64)


@pytest.mark.parametrize("name", LIMITS)
def test_wrong_model_is_refused(name):
    """Other head counts cannot be made to fit in silence."""
    with pytest.raises(InputError, match=r"check (the model|--heads)"):
        dict(LlamaCppSource(FOLDER / name, heads=8, head_dim=128, arch="llama").tensors())
    with pytest.raises(InputError, match="heads do not divide"):
        dict(LlamaCppSource(FOLDER / name, heads=7, arch="llama").tensors())


def test_wrong_architecture_is_refused():
    """A session names its architecture; a model of another one is an error."""
    with pytest.raises(InputError, match="saved by a llama model; the model given is qwen2"):
        LlamaCppSource(FOLDER / "f16-noflash-session.bin", heads=3, head_dim=64, arch="qwen2")
