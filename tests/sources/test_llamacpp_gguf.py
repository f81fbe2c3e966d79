"""The GGUF header: K/V geometry from the metadata of a model, whatever else the file claims."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tqcli.errors import InputError, UsageError
from tqcli.rope import Rope, remove_rope
from tqcli.sources.llamacpp.gguf_header import read_header
from tqcli.sources.llamacpp.source import LlamaCppSource

FOLDER = Path(__file__).parents[2] / "fixtures" / "llamacpp"


def write(path, arch="llama", *, extra=None, tensor="token_embd.weight", skip=()):
    """A GGUF as the `gguf` package writes it: SmolLM2's metadata and one small tensor."""
    writer = gguf.GGUFWriter(path, arch)
    calls = {
        "block_count": (writer.add_block_count, 30),
        "embedding_length": (writer.add_embedding_length, 576),
        "head_count": (writer.add_head_count, 9),
        "head_count_kv": (writer.add_head_count_kv, 3),
        "rope": (writer.add_rope_freq_base, 100000.0),
    }
    for name, (call, value) in calls.items():
        if name not in skip:
            call(value)
    writer.add_name("small")
    writer.add_token_list([f"token {i}" for i in range(40)])
    for call in extra or ():
        call(writer)
    writer.add_tensor(tensor, np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_geometry_of_a_model(tmp_path):
    """Heads, sizes, RoPE and name are the metadata's; the vocabulary is stepped over."""
    header = read_header(write(tmp_path / "m.gguf"))
    assert (header.arch, header.name, header.layers) == ("llama", "small", 30)
    assert header.heads == (9,) * 30
    assert header.kv_heads == (3,) * 30
    assert (header.head_dim_k, header.head_dim_v) == (64, 64)
    assert header.rope == {"theta": 100000.0}
    assert not header.uses_mrope
    assert not header.rope_factors


def test_same_as_by_hand(tmp_path):
    """`--model` gives the tensors that the three flags give, and a full provenance."""
    model = write(tmp_path / "m.gguf")
    path = FOLDER / "f16-noflash-session.bin"
    source = LlamaCppSource(path, model=model)
    got = dict(source.tensors())
    by_hand = dict(LlamaCppSource(path, heads=3, head_dim=64, arch="llama").tensors())
    assert got.keys() == by_hand.keys()
    for name, tensor in got.items():
        assert_array_equal(tensor, by_hand[name])
    record = source.describe().provenance
    assert record["gqa_ratio"] == 3
    assert record["model"] == "small"
    assert len(record["config_sha256"]) == 64


def test_rope_from_the_header_undoes_the_models(tmp_path):
    """The recorded RoPE takes equal tokens at different positions back to equal K."""
    model = write(tmp_path / "m.gguf")
    source = LlamaCppSource(FOLDER / "f32-noflash-seq.bin", model=model)
    (group,) = source.describe().provenance["rope"]
    assert group["layers"] == list(range(30))
    tensors = dict(source.tensors())
    k = remove_rope(tensors["layers.0.k"], tensors["positions"][0], Rope.from_json(group))
    np.testing.assert_allclose(k[:, :, 4], k[:, :, 0], atol=1e-5 * np.abs(k).max())


@pytest.mark.parametrize(
    "change",
    [
        {"tensor": "rope_freqs.weight"},
        {"extra": [lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN)]},
        {"arch": "some-new-arch"},
    ],
    ids=["factors", "yarn", "arch"],
)
def test_rope_that_is_not_known_is_said_so(change, tmp_path):
    """Frequencies scaled by a tensor, YaRN, an architecture we do not know: never a wrong RoPE."""
    model = write(tmp_path / "m.gguf", **change)
    source = LlamaCppSource(FOLDER / "f32-noflash-seq.bin", model=model)
    assert source.describe().provenance["rope"][0]["kind"] == "unknown"


def test_layers_without_attention_are_skipped(tmp_path):
    """Per-layer head counts: layers with none have no rows in the file and keep their numbers."""
    counts = [3] * 30 + [0, 0]
    counts[0], counts[30] = 0, 3  # 30 layers with attention: 1 to 30
    model = write(
        tmp_path / "m.gguf",
        skip=("block_count", "head_count_kv"),
        extra=[lambda w: w.add_block_count(32), lambda w: w.add_head_count_kv(counts)],
    )
    source = LlamaCppSource(FOLDER / "f16-flash-slot.bin", model=model)
    names = [name for name, _ in source.tensors()]
    assert names[2:4] == ["layers.1.k", "layers.1.v"]
    assert names[-1] == "layers.30.v"


def test_key_and_value_lengths(tmp_path):
    """Explicit lengths win over embedding / heads, and may differ."""
    extra = [lambda w: w.add_key_length(192), lambda w: w.add_value_length(128)]
    header = read_header(write(tmp_path / "m.gguf", extra=extra))
    assert (header.head_dim_k, header.head_dim_v) == (192, 128)


def test_wrong_model_is_refused(tmp_path):
    """Another layer count, another head size, or both a model and flags."""
    path = FOLDER / "f16-flash-slot.bin"
    short = write(
        tmp_path / "short.gguf", skip=("block_count",), extra=[lambda w: w.add_block_count(28)]
    )
    with pytest.raises(InputError, match="30 layers; small has 28 with attention; check --model"):
        LlamaCppSource(path, model=short)
    wide = write(tmp_path / "wide.gguf", extra=[lambda w: w.add_key_length(128)])
    with pytest.raises(InputError, match=r"layers\.0\.k: rows of 384 bytes"):
        LlamaCppSource(path, model=wide).describe()
    with pytest.raises(UsageError, match="give one or the other"):
        LlamaCppSource(path, model=short, heads=3)


@pytest.mark.parametrize("key", ["block_count", "head_count", "embedding_length"])
def test_missing_keys_are_named(key, tmp_path):
    """Without a number that shapes depend on, the file is refused by the key's name."""
    path = write(tmp_path / "m.gguf", skip=(key,))
    with pytest.raises(InputError, match=rf"no usable 'llama\.(attention\.)?{key}'"):
        read_header(path)


def problem(path):
    """What is wrong with a header: one message or none."""
    try:
        read_header(path)
    except InputError as error:
        return [str(error)]
    return []


def test_damaged_headers(tmp_path):
    """Truncations, bent bytes, huge numbers: a header or a typed error, and no memory."""
    data = write(tmp_path / "m.gguf").read_bytes()
    end = data.index(b"token_embd.weight")
    bent = tmp_path / "bent.gguf"
    read_header(tmp_path / "m.gguf")
    trials = [data[:n] for n in range(0, end, 61)]
    for at in range(0, end, 7):
        trials.append(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        trials.append(data[:at] + b"\xff" * 8 + data[at + 8 :])
    messages = []
    for trial in trials:
        bent.write_bytes(trial)
        tracemalloc.start()
        messages += problem(bent)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 2 * len(trial) + (1 << 20)
    assert not any("\n" in message for message in messages)
    assert len(messages) > len(trials) // 3


def test_other_versions_and_files(tmp_path):
    """Version 1, a byte-swapped file, nested arrays without end, and what is no GGUF."""
    path = tmp_path / "x.gguf"
    path.write_bytes(struct.pack("<II", 0x46554747, 1) + bytes(64))
    with pytest.raises(InputError, match="GGUF version 1; legal: 2, 3"):
        read_header(path)
    path.write_bytes(struct.pack(">II", 0x47475546, 3) + bytes(64))
    with pytest.raises(InputError, match="GGUF version 50331648"):
        read_header(path)
    nested = struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 200
    path.write_bytes(struct.pack("<IIQQ", 0x46554747, 3, 0, 1) + nested)
    with pytest.raises(InputError, match="nested at most 4 deep"):
        read_header(path)
    with pytest.raises(InputError, match="no GGUF magic"):
        read_header(FOLDER / "f16-flash-slot.bin")
