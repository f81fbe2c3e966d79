"""Save files of the turbo forks: one type number, several meanings, and none is guessed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tqcli.codecs import codec
from tqcli.errors import InputError, UsageError
from tqcli.sources.llamacpp.parse import read_layout
from tqcli.sources.llamacpp.rows import deinterleave
from tqcli.sources.llamacpp.source import LlamaCppSource
from tqcli.sources.llamacpp.types import FORKS, GGML_TYPES, LAYOUTS, family

FOLDER = Path(__file__).parents[2] / "fixtures" / "llamacpp"
_spec = importlib.util.spec_from_file_location("llamacpp_savefile", FOLDER / "savefile.py")
savefile = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = savefile
_spec.loader.exec_module(savefile)

REAL = FOLDER / "f16-flash-slot.bin"
SMOLLM2 = {"heads": 3, "head_dim": 64, "arch": "llama"}


def interleave(k):
    """The order in which a llama-architecture model's K lies in a cache."""
    half = k.shape[-1] // 2
    return np.stack([k[..., :half], k[..., half:]], axis=-1).reshape(k.shape)


def with_turbo_rows(layout, number, path):
    """Rewrite the real file with our own rows of `layout` under type `number`.

    Returns the blocks that were placed, by tensor, ``(heads, seq_len, blocks, block_bytes)``.
    """
    kind, real = codec(layout), read_layout(REAL)
    placed, sides = {}, {"k": [], "v": []}
    for name, tensor in LlamaCppSource(REAL, **SMOLLM2).tensors():
        side = name.rpartition(".")[2]
        if side not in sides:
            continue
        values = interleave(tensor[0]) if side == "k" else tensor[0]
        placed[name] = kind.encode(values)
        rows = placed[name].swapaxes(0, 1).reshape(values.shape[1], -1)
        sides[side].append(savefile.Side(number, rows))
    cells = [(int(p), [0]) for p in real.streams[0].positions]
    streams = [savefile.Stream(cells, sides["k"], sides["v"])]
    made = savefile.SaveFile("sequence", 2, real.tokens.tolist(), streams)
    path.write_bytes(made.to_bytes())
    return placed


@pytest.mark.parametrize(
    ("layout", "number", "fork"),
    [
        ("turbo3", 201, "thetom"),
        ("turbo4", 202, "thetom"),
        ("turbo2", 203, "thetom"),
        ("turbo3@2026-03", 43, "thetom-2026-05"),
        ("turbo4@2026-03", 44, "thetom-2026-05"),
        ("turbo3-b32", 41, "f9841e0ad"),
        ("turbo3-b32", 42, "buun"),
        ("turbo2-b32", 44, "infernaldread"),
    ],
)
def test_turbo_rows_come_back_bit_for_bit(layout, number, fork, tmp_path):
    """Under the right fork the blocks are the ones placed, and decode as the codec says."""
    path = tmp_path / "turbo.bin"
    placed = with_turbo_rows(layout, number, path)
    source = LlamaCppSource(path, **SMOLLM2, fork=fork)
    packed = {name: (kind, blocks) for name, kind, blocks in source.packed()}
    assert packed.keys() == placed.keys()
    tensors = dict(source.tensors())
    for name, blocks in placed.items():
        assert packed[name][0] == layout
        assert_array_equal(packed[name][1][0], blocks)
        decoded = codec(layout).decode(blocks, 64)
        want = deinterleave(decoded) if name.endswith(".k") else decoded
        assert_array_equal(tensors[name][0], want)


def test_turbo3_is_as_near_as_the_codec(tmp_path):
    """What comes back is the model's K, in the model's order, at the codec's known error."""
    path = tmp_path / "turbo.bin"
    with_turbo_rows("turbo3", 201, path)
    got = dict(LlamaCppSource(path, **SMOLLM2, fork="thetom").tensors())
    real = dict(LlamaCppSource(REAL, **SMOLLM2).tensors())
    for name in ("layers.0.k", "layers.29.v"):
        want = real[name].astype(np.float64)
        error = ((got[name] - want) ** 2).sum() / (want**2).sum()
        assert 0.02 < error < 0.06


@pytest.mark.parametrize(
    ("fork", "message"),
    [
        (None, r"ggml type 43; legal: .*; name the fork that wrote it: --fork thetom-2026-05"),
        ("thetom", r"ggml type 43 means nothing in thetom; legal: .*201 turbo3.*; check --fork"),
        ("buun", r"rows of 150 bytes; bytes of 3 heads of 64 values: turbo4 198, turbo4@2026-03"),
    ],
)
def test_wrong_fork_is_refused(fork, message, tmp_path):
    """Type 43 is turbo3 to one fork, turbo4 to another and nothing to a third."""
    path = tmp_path / "turbo.bin"
    with_turbo_rows("turbo3@2026-03", 43, path)
    with pytest.raises(InputError, match=message) as raised:
        list(LlamaCppSource(path, **SMOLLM2, fork=fork).tensors())
    assert "\n" not in str(raised.value)
    assert "layers.0.k" in str(raised.value)


def test_layouts_of_one_size_must_be_named(tmp_path):
    """buun's 50-byte turbo3 exists with both tables; the bytes do not tell which."""
    path = tmp_path / "turbo.bin"
    placed = with_turbo_rows("turbo3@2026-03", 42, path)
    with pytest.raises(InputError, match=r"may be turbo3@2026-03, turbo3; .*--layout"):
        list(LlamaCppSource(path, **SMOLLM2, fork="buun").tensors())
    source = LlamaCppSource(path, **SMOLLM2, fork="buun", layouts=["turbo3@2026-03"])
    name, kind, blocks = next(source.packed())
    assert (name, kind) == ("layers.0.k", "turbo3@2026-03")
    assert_array_equal(blocks[0], placed[name])


def test_type_without_a_codec_is_named(tmp_path):
    """A known type that cannot be decoded is an error by its name."""
    path = tmp_path / "turbo.bin"
    with_turbo_rows("turbo3-v0", 45, path)
    with pytest.raises(InputError, match="type 45 is buun's turbo3_tcq; there is no codec"):
        list(LlamaCppSource(path, **SMOLLM2, fork="buun").tensors())


def test_unknown_names_are_usage_errors():
    """A misspelt fork or layout lists the legal ones."""
    with pytest.raises(UsageError, match=r"unknown fork; legal: buun, f9841e0ad"):
        LlamaCppSource(REAL, fork="theirs")
    with pytest.raises(UsageError, match=r"--layout 'turbo5' is unknown; legal: turbo2"):
        LlamaCppSource(REAL, layouts=["turbo5"])


def test_rows_that_do_not_fit_the_block(tmp_path):
    """Rows that are no whole number of blocks are refused before they are decoded."""
    side = savefile.Side(8, np.zeros((2, 35), np.uint8))
    made = savefile.SaveFile(
        "sequence", 3, [1, 2], [savefile.Stream([(0, [0]), (1, [0])], [side], [side])]
    )
    path = tmp_path / "odd.bin"
    path.write_bytes(made.to_bytes())
    with pytest.raises(
        InputError, match="rows of 35 bytes; bytes of 1 heads of 32 values: q8_0 34"
    ):
        list(LlamaCppSource(path, heads=1, head_dim=32).tensors())
    with pytest.raises(UsageError, match="padded or unknown"):
        LlamaCppSource(path, heads=1).describe()


def test_tables_name_codecs_that_exist():
    """Every layout of every fork is a codec of ours, or a type we know by name only."""
    for layout in (*LAYOUTS, *GGML_TYPES.values()):
        assert codec(layout).id == layout
    for types in FORKS.values():
        for layouts in types.values():
            assert len({family(layout) for layout in layouts}) == 1
            assert set(layouts) <= set(LAYOUTS) or all("tcq" in name for name in layouts)
