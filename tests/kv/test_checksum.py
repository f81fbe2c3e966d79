"""What the checksum of a container covers: its metadata and the entries of all tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

import tqcli
from tqcli.errors import InputError
from tqcli.kv import checksum
from tqcli.kv.container import Container, ContainerWriter
from tqcli.kv.dump import dump_record

Header = dict[str, Any]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A dump of one layer."""
    random = np.random.default_rng(5)
    arrays = {f"layers.0.{s}": random.standard_normal((1, 2, 3, 64), np.float32) for s in "kv"}
    specs = [(name, array.dtype, array.shape) for name, array in arrays.items()]
    record = dump_record({"model": "a", "num_tokens": 3}, "original", "test")
    with ContainerWriter(tmp_path / "d.safetensors", specs, record) as writer:
        for name, array in arrays.items():
            writer.write(name, [array])
    return tmp_path / "d.safetensors"


def split(path: Path) -> tuple[Header, bytes]:
    """Header and data of a file."""
    file = path.read_bytes()
    end = 8 + int.from_bytes(file[:8], "little")
    return json.loads(file[8:end]), file[end:]


def join(path: Path, header: Header, data: bytes) -> None:
    """Write a file again."""
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_is_what_the_description_says(written: Path) -> None:
    """Computed by hand from docs/format.md: the digest of each tensor, then the checksum."""
    header, data = split(written)
    text = header["__metadata__"]["tq"]
    record = json.loads(text)
    for name, tensor in record["tensors"].items():
        start, end = header[name]["data_offsets"]
        assert tensor["digest"] == f"blake3:{blake3(data[start:end]).hexdigest()}"
    blank = text.replace(record["checksum"], "blake3:" + "0" * 64)
    hashed = f"{blank}\nlayers.0.k F32 1,2,3,64\nlayers.0.v F32 1,2,3,64"
    assert record["checksum"] == f"blake3:{blake3(hashed.encode()).hexdigest()}"
    with tqcli.open_dump(written) as dump:
        assert dump.checksum == record["checksum"]
        lines = "".join(
            f"{name} {record['tensors'][name]['digest'].removeprefix('blake3:')}\n"
            for name in ("layers.0.k", "layers.0.v")
        )
        assert dump.fingerprint() == f"blake3:{blake3(lines.encode()).hexdigest()}"


def edit_text(old: str, new: str) -> Callable[[Header], None]:
    """A change in the text of the metadata."""

    def edit(header: Header) -> None:
        text = header["__metadata__"]["tq"]
        assert old in text
        header["__metadata__"]["tq"] = text.replace(old, new)

    return edit


def rename(header: Header) -> None:
    """K of another layer."""
    header["layers.1.k"] = header.pop("layers.0.k")
    edit_text("layers.0.k", "layers.1.k")(header)


def reshape(header: Header) -> None:
    """The same bytes as other heads and tokens."""
    for side in "kv":
        header[f"layers.0.{side}"]["shape"] = [1, 3, 2, 64]


def retype(header: Header) -> None:
    """The same bytes as twice as many 16-bit numbers."""
    for side in "kv":
        header[f"layers.0.{side}"].update(dtype="BF16", shape=[1, 2, 3, 128])


@pytest.mark.parametrize(
    "edit",
    [
        edit_text('"model":"a"', '"model":"b"'),
        edit_text('"num_tokens":3', '"num_tokens":4'),
        edit_text('"domain":"original"', '"domain":"rotated"'),
        edit_text('"tq":"test"', '"tq":"best"'),
        edit_text('"checksum":"blake3:', '"checksum":"sha256:'),
        rename,
        reshape,
        retype,
    ],
    ids=["provenance", "number", "domain", "version", "hash", "name", "shape", "dtype"],
)
def test_changes_are_found(edit: Callable[[Header], None], written: Path) -> None:
    """Every change of what a reader believes beside the data is refused when the file is opened."""
    header, data = split(written)
    edit(header)
    join(written, header, data)
    with pytest.raises(InputError, match=r"checksum is (blake3|sha256):\w+\.\.\., the meta"):
        tqcli.open_dump(written)


def test_layout_of_the_header_is_free(written: Path) -> None:
    """Spaces, padding and the order of tensors in the header are no part of it."""
    header, data = split(written)
    metadata = header.pop("__metadata__")
    join(written, {**dict(reversed(header.items())), "__metadata__": metadata}, data)
    with tqcli.open_dump(written) as dump:
        assert len(dump.tensors) == 2


@pytest.mark.parametrize("lacking", ["checksum", "digest"])
def test_version_2_has_checksums(lacking: str, written: Path) -> None:
    """They cannot be left out: a file without them was not written whole."""
    header, data = split(written)
    record = json.loads(header["__metadata__"]["tq"])
    if lacking == "digest":
        del record["tensors"]["layers.0.v"]["digest"]
        record["checksum"] = checksum.zeros()
        text = json.dumps(record)
        entries = [(f"layers.0.{s}", "F32", (1, 2, 3, 64)) for s in "kv"]
        record["checksum"] = checksum.of_header(text, entries, "blake3")
    else:
        del record["checksum"]
    header["__metadata__"]["tq"] = json.dumps(record)
    join(written, header, data)
    with pytest.raises(InputError, match=f"lacks .*{lacking}"):
        tqcli.open_dump(written)


@pytest.mark.parametrize("value", ["", "blake3", "blake3:12", "md5:" + "0" * 32, 3, None, ["x"],
                                   "blake3:" + "G" * 64, "sha256:" + "0" * 65])  # fmt: skip
def test_unknown_checksums(value: Any, written: Path) -> None:
    """What is no checksum by a known hash is refused, and the known ones are named."""
    header, data = split(written)
    record = json.loads(header["__metadata__"]["tq"])
    record["tensors"]["layers.0.k"]["digest"] = value
    del record["checksum"]
    header["__metadata__"]["tq"] = json.dumps({**record, "schema": "tq.dump/1"})
    join(written, header, data)
    with pytest.raises(InputError, match=r"layers\.0\.k: digest is .*blake3, sha256"):
        Container(written)


def test_a_third_hash_is_one_line(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files name their hash: one that is added is read beside the others."""
    import hashlib

    monkeypatch.setattr(checksum, "HASHES", {**checksum.HASHES, "sha3_512": hashlib.sha3_512})
    header, data = split(written)
    record = json.loads(header["__metadata__"]["tq"])
    for name, tensor in record["tensors"].items():
        start, end = header[name]["data_offsets"]
        tensor["digest"] = f"sha3_512:{hashlib.sha3_512(data[start:end]).hexdigest()}"
    record["checksum"] = checksum.zeros("sha3_512")
    text = json.dumps(record)
    entries = [(f"layers.0.{s}", "F32", (1, 2, 3, 64)) for s in "kv"]
    record["checksum"] = checksum.of_header(text, entries, "sha3_512")
    header["__metadata__"]["tq"] = json.dumps(record)
    join(written, header, data)
    with tqcli.open_dump(written) as dump:
        assert all(tensor.stored.read().size for tensor in dump)
        assert dump.fingerprint("sha3_512").startswith("sha3_512:")
