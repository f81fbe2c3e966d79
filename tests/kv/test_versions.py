"""Files of schema version 1, as tq 0.1.0 wrote them, are read and checked by every later version.

``fixtures/containers/make.py`` holds them and what is in them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tqcli
from tqcli.errors import InputError
from tqcli.kv.dump import Dump

# Of K and V.
SHAPE = (1, 2, 3, 128)


@pytest.fixture
def first(fixtures: Path, tmp_path: Path) -> Path:
    """A folder with copies of the files."""
    return Path(shutil.copytree(fixtures / "containers", tmp_path / "first"))


@pytest.fixture(scope="session")
def values() -> tuple[np.ndarray, np.ndarray]:
    """K and V of the dump, drawn again."""
    random = np.random.default_rng(20_261_001)
    random.integers(0, 50_000, (1, SHAPE[2]), dtype=np.int32)
    k, v = random.standard_normal((2, *SHAPE)).astype(np.float16)
    return k, v


@pytest.mark.parametrize("name", ["dump-1.safetensors", "dump-1-shards.safetensors.index.json"])
def test_dump(name: str, first: Path, values: tuple[np.ndarray, np.ndarray]) -> None:
    """Whole or in shards: the tensors, and an identity that does not know of the shards."""
    with (
        tqcli.open_dump(first / name) as dump,
        tqcli.open_dump(first / "dump-1.safetensors") as one,
    ):
        for side, array in zip("kv", values, strict=True):
            tensor = dump.get(0, side)
            assert tensor is not None
            assert np.array_equal(tensor.stored.read(), array)
            assert str(tensor.stored.digest).startswith("sha256:")
        assert dump.fingerprint() == one.fingerprint()
        assert dump.fingerprint("sha256") == one.fingerprint("sha256")
        assert (dump.source["kind"], dump.checksum) == ("synthetic", None)


def test_packed_belongs_to_its_dump(first: Path, values: tuple[np.ndarray, np.ndarray]) -> None:
    """A cache of version 1 knows its dump, also one that was written anew in version 2."""
    with tqcli.open_packed(first / "packed-1.safetensors") as packed:
        assert packed.origin is not None
        with tqcli.open_dump(first / "dump-1.safetensors") as dump:
            assert packed.origin == dump.fingerprint("sha256")
            assert packed.made_from(dump)
            copy = rewrite(dump, first / "dump-2.safetensors")
        with tqcli.open_dump(copy) as dump:
            assert dump.record["schema"] == "tq.dump/2"
            assert packed.made_from(dump)
        back = tqcli.unpack(packed, first / "back.safetensors")
        with tqcli.open_dump(back) as dump:
            assert not packed.made_from(dump)
    for side, array in zip("kv", values, strict=True):
        name = {"k": "turbo3", "v": "q8_0"}[side]
        codec = tqcli.codec(name)
        with tqcli.open_dump(back) as dump:
            tensor = dump.get(0, side)
            assert tensor is not None
            expected = codec.decode(codec.encode(array), dtype=np.float16)
            assert np.array_equal(tensor.stored.read(), expected)


def rewrite(dump: Dump, path: Path) -> Path:
    """The same tensors in the version that is written today."""
    from tqcli.kv.container import ContainerWriter
    from tqcli.kv.dump import dump_record

    specs = [(n, s.entry.dtype, s.entry.shape) for n, s in dump.stored.items()]
    with ContainerWriter(path, specs, dump_record(dump.source, "original", "test")) as writer:
        for name, stored in dump.stored.items():
            writer.write(name, [stored.read()])
    return path


def test_packed_from_version_1(first: Path) -> None:
    """A cache made today from a dump of version 1 belongs to it, and to its shards."""
    with tqcli.open_dump(first / "dump-1.safetensors") as dump:
        kinds = tqcli.CacheType("turbo3"), tqcli.CacheType("turbo3")
        path, _ = tqcli.quantize(dump, first / "packed-2.safetensors", *kinds)
        with (
            tqcli.open_packed(path) as packed,
            tqcli.open_dump(first / "dump-1-shards.safetensors.index.json") as shards,
        ):
            assert packed.record["schema"] == "tq.packed/2"
            assert packed.made_from(dump)
            assert packed.made_from(shards)


@pytest.mark.parametrize("name", ["dump-1.safetensors", "packed-1.safetensors"])
def test_sha256_is_checked(name: str, first: Path, tq: Callable[..., Any]) -> None:
    """A flipped bit of data in a file of version 1 is found, and named."""
    path = first / name
    assert tq("inspect", path, "--verify").code == 0
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = tq("inspect", path, "--verify")
    assert result.code == 3
    assert "checksum is sha256:" in result.err


def test_fixtures_are_not_overwritten(fixtures: Path) -> None:
    """The script that wrote them stops at the first one that is there."""
    script = (fixtures / "containers" / "make.py").read_text()
    assert '.open("xb")' in script
    assert '.open("x")' in script


def test_version_2_without_checksums(first: Path, tmp_path: Path) -> None:
    """A file of version 1 cannot pass as one of version 2: that one has checksums of all."""
    path = first / "dump-1.safetensors"
    # one byte of the header, so that all offsets stay
    path.write_bytes(path.read_bytes().replace(b"tq.dump/1", b"tq.dump/2", 1))
    with pytest.raises(InputError, match="lacks its checksum"):
        tqcli.open_dump(path)
