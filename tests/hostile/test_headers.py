"""Files that are no safetensors files, or lie in their header: refused before any trust."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tqcli.errors import InputError
from tqcli.kv.dump import Dump
from tqcli.kv.packed import Packed
from tqcli.kv.tensorfile import MAX_HEADER, MAX_TENSORS, TensorFile

from .conftest import Refused
from .containers import entry, raw, split

SHAPE = [1, 1, 2, 4]
FULL = bytes(16)  # float16 of that shape
K = "layers.0.k"


def one(shape: list[object], start: object, end: object, data: bytes = FULL) -> bytes:
    """A file of one tensor."""
    return raw({K: entry(shape, start, end)}, data)


def two(first: tuple[int, int], second: tuple[int, int], data: bytes) -> bytes:
    """A file of K and V at these offsets."""
    return raw({K: entry(SHAPE, *first), "layers.0.v": entry(SHAPE, *second)}, data)


def named(name: str) -> bytes:
    """A file of one tensor of any name."""
    return raw({name: entry(SHAPE, 0, 16)}, FULL)


TWICE = f'{{"{K}": {json.dumps(entry(SHAPE, 0, 16))}, "{K}": {json.dumps(entry(SHAPE, 0, 16))}}}'
DEEP = b'{"__metadata__":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes"),
    "one byte": (b"\x00", "1 bytes"),
    "seven bytes": (bytes(7), "at least 8"),
    "no header": (bytes(8), "not JSON"),
    "wrong magic": (b"GGUF" + bytes(60), "safetensors"),
    "zip": (b"PK\x03\x04" + bytes(60), "header of"),
    "pickle": (b"\x80\x04\x95" + bytes(60), "header of"),
    "header 2^60": (raw(b"{}", length=2**60), "header of 1152921504606846976 bytes"),
    "header 2^64-1": (raw(b"{}", length=2**64 - 1), "truncated"),
    "header one too long": (raw(b"{}", length=3), "header of 3 bytes in a file of 10"),
    "header no object": (raw(b"[1, 2]"), "not a safetensors file"),
    "header no JSON": (raw(b"{]"), "not JSON"),
    "header not UTF-8": (raw(b'{"\xff": 1}'), "not JSON|utf-8"),
    "header UTF-16": (raw('{"a": 1}'.encode("utf-16")), "not a safetensors file"),
    "deep": (raw(DEEP), "header"),
    "empty object": (raw({}), "no layers"),
    "trailing bytes": (one(SHAPE, 0, 16, FULL + b"x"), "not a safetensors file"),
    "missing bytes": (one(SHAPE, 0, 16, FULL[:-1]), "not a safetensors file"),
    "overlap": (two((0, 16), (8, 24), bytes(24)), "not a safetensors file"),
    "same place": (two((0, 16), (0, 16), FULL), "not a safetensors file"),
    "hole": (two((0, 16), (24, 40), bytes(40)), "not a safetensors file"),
    "hole in front": (one(SHAPE, 8, 24, bytes(24)), "not a safetensors file"),
    "negative offset": (one(SHAPE, -16, 0), "not a safetensors file"),
    "backwards": (one(SHAPE, 16, 0), "not a safetensors file"),
    "offset 2^64": (one(SHAPE, 2**64, 2**64 + 16), "not a safetensors file"),
    "offset wraps": (one(SHAPE, 2**64 - 16, 0), "not a safetensors file"),
    "offset beyond the end": (one(SHAPE, 0, 2**40), "not a safetensors file"),
    "offset a float": (one(SHAPE, 0.0, 16.0), "not a safetensors file"),
    "three offsets": (
        raw({K: {"dtype": "F16", "shape": SHAPE, "data_offsets": [0, 8, 16]}}, FULL),
        "not a safetensors file",
    ),
    "too few bytes for the shape": (one([1, 1, 2, 5], 0, 16), "not a safetensors file"),
    "too many bytes for the shape": (one([1, 1, 2, 3], 0, 16), "not a safetensors file"),
    "2^33 x 2^33": (one([1, 1, 2**33, 2**33], 0, 16), "not a safetensors file"),
    "2^33 x 2^33 x 0": (one([2**33, 2**33, 0, 4], 0, 0, b""), "not a safetensors file"),
    "2^32 x 2^32 x 0": (one([2**31, 1, 0, 4], 0, 0, b""), "at most"),
    "head_dim 2^40, no tokens": (one([1, 1, 0, 2**40], 0, 0, b""), "head_dim 16384"),
    "negative axis": (one([1, 1, -2, -4], 0, 16), "not a safetensors file"),
    "axis 10^30": (one([1, 1, 10**30, 4], 0, 16), "not a safetensors file"),
    "rank 0": (raw({K: entry([], 0, 2)}, bytes(2)), "rank 0"),
    "rank 1": (one([8], 0, 16), "rank 1"),
    "rank 5": (one([1, 1, 1, 2, 4], 0, 16), "rank 5"),
    "no head": (one([1, 0, 2, 4], 0, 0, b""), "empty axis"),
    "unknown dtype": (raw({K: entry(SHAPE, 0, 16, "Q8_0")}, FULL), "not a safetensors file"),
    "dtype F64": (raw({K: entry([1, 1, 1, 2], 0, 16, "F64")}, FULL), "dtype F64; F32"),
    "integers": (raw({K: entry([1, 1, 1, 4], 0, 16, "I32")}, FULL), "int32; float32"),
    "name twice": (raw(TWICE.encode(), FULL), "occurs twice"),
    "name with NUL": (named("layers.0.k\0"), "printable names"),
    "name with escape": (named("layers.0.k\x1b[2J"), "printable names"),
    "name ../": (named("../../etc/passwd"), "printable names"),
    "name long": (named("layers.0." + "k" * 10_000), "at most 256"),
    "name of no layer": (named("model.layers.0.self_attn.k"), "layers.N.k"),
    "layer -1": (named("layers.-1.k"), "unknown tensor"),
    "layer 00": (named("layers.00.k"), "unknown tensor"),
    "layer 10^30": (named(f"layers.{10**30}.k"), "unknown tensor"),
    "side w": (named("layers.0.w"), "unknown tensor"),
    "metadata a number": (
        raw({"__metadata__": {"tq": 5}, K: entry(SHAPE, 0, 16)}, FULL),
        "not a safetensors file",
    ),
    "metadata a list": (
        raw({"__metadata__": ["tq"], K: entry(SHAPE, 0, 16)}, FULL),
        "not a safetensors file",
    ),
    "token ids of float": (
        raw(
            {K: entry(SHAPE, 0, 16), "token_ids": entry([1, 2], 16, 20)},
            bytes(20),
        ),
        "token_ids: float16",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_dump(name: str, folder: Path, refused: Refused) -> None:
    """Each way to be no dump ends in its own line, with the file named and nothing written."""
    data, matching = HOSTILE[name]
    (folder / "x.safetensors").write_bytes(data)
    line = refused("quantize", "x.safetensors", "-o", "out.safetensors", matching=matching)
    assert "x.safetensors" in line


@pytest.mark.parametrize("command", ["inspect", "evaluate", "compare", "fit", "unpack"])
@pytest.mark.parametrize("name", ["empty", "header 2^60", "overlap", "2^33 x 2^33", "name ../"])
def test_every_command_refuses(name: str, command: str, folder: Path, refused: Refused) -> None:
    """The reader is one for all commands: none has a path around its checks."""
    (folder / "x.safetensors").write_bytes(HOSTILE[name][0])
    arguments = {
        "inspect": ["inspect", "x.safetensors", "--verify"],
        "evaluate": ["evaluate", "x.safetensors"],
        "compare": ["compare", "x.safetensors", "-t", "turbo3"],
        "fit": ["fit-codebook", "x.safetensors", "-o", "book.json"],
        "unpack": ["unpack", "x.safetensors", "-o", "out.safetensors"],
    }[command]
    refused(*arguments, matching=HOSTILE[name][1])


@pytest.mark.parametrize("kind", ["dump", "packed"])
def test_every_truncation(kind: str, folder: Path, dump_bytes: bytes, packed_bytes: bytes) -> None:
    """A file cut at any length is refused when it is opened, not when its data runs out."""
    whole, opened = (dump_bytes, Dump) if kind == "dump" else (packed_bytes, Packed)
    path = folder / "x.safetensors"
    path.write_bytes(whole)
    opened(path).close()
    for length in range(len(whole) - 1, -1, -1):
        with path.open("r+b") as file:
            file.truncate(length)
        with pytest.raises(InputError, match=r"x\.safetensors"):
            opened(path)


def test_million_tensors(folder: Path, refused: Refused) -> None:
    """A million tensors of no bytes are refused by the length of the header, which is not read."""
    record = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    header = "{" + ",".join(f'"t{i}":{record}' for i in range(1_000_000)) + "}"
    (folder / "x.safetensors").write_bytes(raw(header.encode()))
    assert len(header) > MAX_HEADER
    refused("inspect", "x.safetensors", matching=f"at most {MAX_HEADER}")


def test_too_many_tensors(folder: Path, refused: Refused) -> None:
    """More tensors than any model has are counted before they are made into objects."""
    record = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    header = "{" + ",".join(f'"t{i}":{record}' for i in range(MAX_TENSORS + 2)) + "}"
    (folder / "x.safetensors").write_bytes(raw(header.encode()))
    # The names as Python strings and the pairs around them.
    refused("inspect", "x.safetensors", matching="65538 tensors", constant=16 << 20)


@pytest.mark.parametrize("filler", [b"[],", b"0,", b"{},", b'"ab",'])
def test_header_of_many_values(filler: bytes, folder: Path, refused: Refused) -> None:
    """A header that is short as text and huge as objects is refused before it is parsed."""
    text = b'{"__metadata__":[' + filler * (12_000_000 // len(filler)) + b"0]}"
    (folder / "x.safetensors").write_bytes(raw(text))
    refused("inspect", "x.safetensors", matching="values, at most")


def test_message_is_bounded(folder: Path, refused: Refused) -> None:
    """A hostile name does not flood the terminal."""
    (folder / "x.safetensors").write_bytes(named("\x07" * 20_000))
    assert len(refused("inspect", "x.safetensors")) < 400


def test_reading_needs_no_more_than_asked(folder: Path, dump_bytes: bytes) -> None:
    """Opening reads the header alone: a cut made afterwards is met by the read of the data."""
    path = folder / "x.safetensors"
    path.write_bytes(dump_bytes)
    header = 8 + len(json.dumps(split(dump_bytes)[0]))
    with TensorFile(path) as file:
        with path.open("r+b") as other:
            other.truncate(header)
        with pytest.raises(InputError, match=r"ended 2560 bytes early; it changed"):
            list(file.chunks(file.entries[K], 1, 1 << 20))
