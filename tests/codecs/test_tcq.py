"""buun's trellis-coded types, whose table comes from a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import tqcli
from tqcli.codebook import TrellisTable, lloyd_max, read_trellis
from tqcli.codecs import from_config
from tqcli.codecs.tcq import SPECS
from tqcli.errors import InputError, UsageError

Make = Callable[..., Any]


@pytest.fixture(scope="session")
def golden(fixtures: Path) -> dict[str, Any]:
    """Tables of our own making, and the blocks that go with them."""
    return load_file(fixtures / "golden" / "trellis.safetensors")


def table(golden: dict[str, Any], name: str) -> TrellisTable:
    """The table that the golden blocks were written with."""
    values = tuple(map(float, golden[f"{name}.table"]))
    return TrellisTable("golden", SPECS[name].bits, SPECS[name].window, values)


@pytest.mark.parametrize("name", SPECS)
def test_golden_blocks(name: str, golden: dict[str, Any], kernel: str) -> None:
    """One id is one byte layout for ever."""
    made = tqcli.codec(name, codebook=table(golden, name))
    assert np.array_equal(made.encode(golden["x"]), golden[f"{name}.blocks"])


@pytest.mark.parametrize("name", SPECS)
def test_layout_bit_by_bit(name: str, golden: dict[str, Any]) -> None:
    """Six bits of state, then symbols; the window of value t begins at bit ``bits * t``."""
    bits, window = SPECS[name].bits, SPECS[name].window
    values = golden[f"{name}.table"]
    rotated = tqcli.codec(name, codebook=table(golden, name)).decode(
        golden[f"{name}.blocks"], domain="rotated"
    )
    for vector in (0, 11, 23):
        block = golden[f"{name}.blocks"][vector, 0]
        stream = int.from_bytes(block[2:].tobytes(), "little")
        assert stream >> (6 + 128 * bits) == 0
        norm = np.float32(block[:2].copy().view("<f2")[0])
        for t in range(128):
            entry = stream >> bits * t & (1 << window) - 1
            assert rotated[vector, t] == values[entry] * norm


@pytest.mark.parametrize("name", SPECS)
def test_search_uses_the_whole_table(name: str, golden: dict[str, Any], gaussian: Make) -> None:
    """Any start state, any window; the length is kept and the error is a trellis's."""
    made, x = tqcli.codec(name, codebook=table(golden, name)), gaussian(40, 128)
    decoded = made.decode(made.encode(x), 128)
    lengths = [np.linalg.norm(a, axis=1) for a in (x, decoded)]
    assert np.allclose(lengths[0], lengths[1], rtol=2**-10)
    share = np.square(decoded - x).sum() / np.square(x).sum()
    assert share < {"turbo3_tcq": 0.03, "turbo2_tcq": 0.11}[name]


@pytest.mark.parametrize("name", SPECS)
def test_hostile_vectors(name: str, golden: dict[str, Any], gaussian: Make) -> None:
    """Zero is zero, and what cannot be held is named."""
    made = tqcli.codec(name, codebook=table(golden, name))
    assert not made.decode(made.encode(np.zeros((2, 128), np.float32))).any()
    x = gaussian(3, 256)
    for value, what in ((np.nan, r"vector 2 dim 130"), (np.float32(1e30), "vector 2.*fp16")):
        x[2, 130] = value
        with pytest.raises(InputError, match=what):
            made.encode(x)
    blocks = made.encode(gaussian(3, 256))
    blocks[1, 1, :2] = np.array([-1], "<f2").view(np.uint8)
    with pytest.raises(InputError, match="vector 1: stored norm"):
        made.decode(blocks)


@pytest.mark.parametrize("name", SPECS)
def test_config_holds_the_table(name: str, golden: dict[str, Any]) -> None:
    """A file explains itself."""
    made = tqcli.codec(name, codebook=table(golden, name))
    again = from_config(json.loads(json.dumps(made.config())), "x")
    blocks = golden[f"{name}.blocks"]
    assert again.decode(blocks).tobytes() == made.decode(blocks).tobytes()


def test_there_is_no_default() -> None:
    """Several tables are in circulation; a guess would decode to noise."""
    for name in SPECS:
        with pytest.raises(UsageError, match=f"{name}: needs --codebook FILE, the table of"):
            tqcli.codec(name)
        with pytest.raises(InputError, match=f"f.json: {name}: needs --codebook"):
            from_config({"id": name}, "f.json")


def test_tables_that_do_not_fit(golden: dict[str, Any]) -> None:
    """Of the other type, of scalar levels, and a table for a type that takes none."""
    two, three = (table(golden, name) for name in ("turbo2_tcq", "turbo3_tcq"))
    with pytest.raises(InputError, match="takes 3 and 9"):
        tqcli.codec("turbo3_tcq", codebook=two)
    with pytest.raises(UsageError, match="takes a trellis table, not codebook"):
        tqcli.codec("turbo3_tcq", codebook=lloyd_max("gaussian", 3, 1)[0])
    with pytest.raises(UsageError, match="turbo3: takes no trellis table"):
        tqcli.codec("turbo3", codebook=three)


def test_read_raw_and_json(tmp_path: Path, golden: dict[str, Any]) -> None:
    """The raw floats that the fork reads, and tq's own file, are one table."""
    given = table(golden, "turbo3_tcq")
    raw, own = tmp_path / "cb.bin", tmp_path / "cb.json"
    raw.write_bytes(given.array().astype("<f4").tobytes())
    own.write_text(given.dumps(), encoding="utf-8")
    found = [read_trellis(path, 3, 9) for path in (raw, own)]
    assert found[0].values == found[1].values == given.values
    assert found[0].sha256 == given.sha256
    assert found[0].id == "cb"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not JSON"),
        (b"\0" * 2047, "cb: not JSON|not UTF-8"),
        (b"\0" * 2048, "every value is 0"),
        (np.full(512, np.nan, "<f4").tobytes(), r"values\[0\] is nan"),
        (np.full(512, 1e9, "<f4").tobytes(), r"values\[0\] is 1000000000"),
        (b'{"schema": "tq.codebook/1"}', "tq.trellis/1"),
        (b'{"schema": "tq.trellis/1", "id": "a", "bits": 3, "window": 9}', "'values'"),
        (
            b'{"schema": "tq.trellis/1", "id": "a", "bits": 3, "window": 9, "values": [1, 2]}',
            "2 values; a window of 9 bits has 512",
        ),
        (
            b'{"schema": "tq.trellis/1", "id": "a", "bits": 1, "window": 2, '
            b'"values": [1, 2, 3, true]}',
            "holds True",
        ),
        (
            b'{"schema": "tq.trellis/1", "id": "a", "bits": 1, "window": 2, "values": [1,2,3,4]}',
            "a table for 1 bits and windows of 2",
        ),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, content: bytes, what: str) -> None:
    """One line that names the file."""
    path = tmp_path / "cb"
    path.write_bytes(content)
    with pytest.raises(InputError, match=what) as caught:
        read_trellis(path, 3, 9)
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    """A folder or nothing at all."""
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"regular file|no such file"):
            read_trellis(path, 3, 9)
