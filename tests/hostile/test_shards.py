"""Shards that are missing, foreign, or say otherwise than their index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqcli.errors import InputError
from tqcli.kv.dump import open_dump

from .conftest import Refused
from .containers import file_of, record_of, with_record, write_index

INDEX = "d.safetensors.index.json"
A, B = "d-00001-of-00002.safetensors", "d-00002-of-00002.safetensors"
K, V = "layers.0.k", "layers.0.v"


@pytest.fixture
def shards(folder: Path, values: np.ndarray) -> Path:
    """A dump of two shards; K in the first, V in the second."""
    (folder / A).write_bytes(file_of({K: values}))
    (folder / B).write_bytes(file_of({V: -values}))
    return write_index(folder, {K: A, V: B})


def test_legal(shards: Path) -> None:
    """The dump that the other tests spoil is read."""
    with open_dump(shards) as dump:
        assert [tensor.name for tensor in dump] == [K, V]


def test_missing_shard(shards: Path, refused: Refused) -> None:
    """A shard that was not downloaded is named."""
    (shards.parent / B).unlink()
    refused("quantize", INDEX, "-o", "o.safetensors", matching=rf"{B}: cannot be read \(No such")


@pytest.mark.parametrize(
    "name",
    ["../d.safetensors", "/etc/passwd", "sub/d.safetensors", "..", ".", "", "a\0b", 7, None, [A]],
)
def test_shard_elsewhere(name: Any, shards: Path, refused: Refused) -> None:
    """An index reaches no file outside its folder."""
    write_index(shards.parent, {K: A, V: name})
    refused("inspect", INDEX, matching="'layers.0.v': shard .* is not the name|cannot be read")


@pytest.mark.parametrize(
    ("homes", "matching"),
    [
        ({K: A, V: B, "layers.1.k": B}, "'layers.1.k': lies in no shard, the index says d-00002"),
        ({K: B, V: A}, "'layers.0.k': lies in d-00001.*, the index says d-00002"),
        ({K: A, "layers.3.v": B}, "'layers.0.v': lies in .*nothing of it"),
        ({}, "no weight_map"),
        ([K, A], "no weight_map"),
        (None, "no weight_map"),
        (3, "no weight_map"),
    ],
)
def test_index_disagrees(homes: Any, matching: str, shards: Path, refused: Refused) -> None:
    """The index and the shards must list the same tensors in the same places."""
    write_index(shards.parent, homes)
    refused("evaluate", INDEX, matching=matching)


def test_tensor_in_two_shards(shards: Path, values: np.ndarray, refused: Refused) -> None:
    """Of two tensors with one name, none is the right one."""
    (shards.parent / B).write_bytes(file_of({K: values, V: values}))
    refused("inspect", INDEX, matching="layers.0.k stands in two shards")


def test_one_shard_twice(shards: Path, refused: Refused) -> None:
    """Two names of one file are two shards with the same tensors."""
    (shards.parent / B).unlink()
    (shards.parent / B).symlink_to(A)
    refused("inspect", INDEX, matching="stands in two shards")


def test_shards_of_two_dumps(shards: Path, refused: Refused) -> None:
    """Shards whose records differ were not written together."""
    first, second = shards.parent / A, shards.parent / B
    record = {"schema": "tq.dump/1", "source": {"model": "a"}, "domain": "original"}
    first.write_bytes(with_record(first.read_bytes(), record))
    second.write_bytes(with_record(second.read_bytes(), {**record, "source": {"model": "b"}}))
    refused("inspect", INDEX, matching="metadata differs from the other shards")


@pytest.mark.parametrize("text", ["", "[", "[]", "3", '{"weight_map": {"a": "b", "a": "c"}}'])
def test_index_is_no_index(text: str, folder: Path, refused: Refused) -> None:
    """Text that is no index is refused as such."""
    (folder / INDEX).write_text(text)
    refused("inspect", INDEX, matching="shard index|weight_map")


def test_index_huge_as_objects(folder: Path, refused: Refused) -> None:
    """An index that is short as text and huge as objects is not parsed."""
    (folder / INDEX).write_text('{"weight_map": [' + "[]," * 2_000_000 + "0]}")
    refused("inspect", INDEX, matching="values, at most")


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_short_shard(place: str, shards: Path, refused: Refused) -> None:
    """A shard that was cut off is refused at any length."""
    whole = (shards.parent / B).read_bytes()
    length = {"first": 0, "middle": len(whole) // 2, "last": len(whole) - 1}[place]
    (shards.parent / B).write_bytes(whole[:length])
    refused("compare", INDEX, matching=B)


@pytest.mark.parametrize("extra", [[], ["--force"]])
def test_output_over_input_shards(extra: list[str], shards: Path, refused: Refused) -> None:
    """Output shards that would replace the input's are refused, with --force too."""
    refused("quantize", INDEX, "-o", "d.safetensors", "--max-shard-size", "1", *extra,
            code=2, matching="is the input itself")  # fmt: skip


def test_output_exists(dump: Path, refused: Refused) -> None:
    """An existing index stops a sharded output before anything is written."""
    (dump.parent / INDEX.replace("d", "o", 1)).write_bytes(b"precious")
    refused("quantize", dump.name, "-o", "o.safetensors", "--max-shard-size", "1",
            code=2, matching="exists; choose another name or pass --force")  # fmt: skip


def test_failing_index_leaves_no_shards(
    dump: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the last step fails, the shards that are in place already are taken back."""

    def full(*_: object, **__: object) -> None:
        raise InputError("o: cannot be written (No space left on device)")

    monkeypatch.setattr("tqcli.kv.shards.replacing", full)
    refused("quantize", dump.name, "-o", "o.safetensors", "--max-shard-size", "1",
            matching="No space left")  # fmt: skip


def test_sharded_result_is_whole(shards: Path, tq: Callable[..., Any]) -> None:
    """Sharded in, sharded out: the records of the shards are those of their own tensors."""
    result = tq("quantize", INDEX, "-o", "o.safetensors", "--max-shard-size", "1")
    assert result.code == 0
    index = json.loads((shards.parent / "o.safetensors.index.json").read_text())
    names = sorted(index["weight_map"].values())
    tag = index["metadata"]["checksum"].removeprefix("blake3:")[:12]
    assert names == [f"o-{tag}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name, tensor in zip(names, (K, V), strict=True):
        record = record_of((shards.parent / name).read_bytes())
        assert list(record["tensors"]) == [f"{tensor}.blocks"]
