"""Archives on disk: round trips, ranges, appending, and files that are not what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqcli.archive.api import Archive, decode, encode
from tqcli.archive.cache import Encoder
from tqcli.archive.code import Code
from tqcli.errors import InputError, UsageError
from tqcli.kv.archive import ArchiveFile, CodeFile
from tqcli.kv.archive_writer import Contents, write_archive, write_code

TOKENS = 700


def contents(code: Code, tokens: int = TOKENS) -> Contents:
    """What a file says of itself."""
    extras = {"positions": np.arange(tokens, dtype=np.int32)}
    numbers = [2 * i for i in range(len(code.layers))]
    return Contents({"model": "made up"}, numbers, tokens, "float16", extras)


def of_file(opened: ArchiveFile) -> Archive:
    """The archive that a file holds."""
    return Archive(opened.tokens, opened.first(), list(opened.stretches()))


@pytest.fixture(scope="module")
def archive(code: Code, helpers: Any) -> Archive:
    """Of a made-up cache."""
    cache = helpers.Cache(TOKENS, seed=41)
    return encode([cache.read(i, 0, TOKENS) for i in range(helpers.layers)], code)


@pytest.fixture(scope="module")
def files(code: Code, archive: Archive, tmp_path_factory: Any) -> tuple[Path, Path]:
    """An archive and its side data."""
    folder = tmp_path_factory.mktemp("archive")
    made, side = folder / "cache.safetensors", folder / "side.safetensors"
    fingerprint = write_code(side, code, {"model": "made up"})
    write_archive(made, contents(code), archive.first, archive.stretches, code, fingerprint, "test")
    return made, side


def test_round_trip(code: Code, archive: Archive, files: tuple[Path, Path]) -> None:
    """What is read is what was written; the file is little larger than what it holds."""
    with ArchiveFile(files[0]) as opened, CodeFile(files[1]) as side:
        assert opened.layers == [0, 2, 4, 6]
        assert opened.shapes == [(2, 8, 6)] * 4
        assert opened.code() is None
        opened.check(side.code, side.fingerprint)
        found = decode(of_file(opened), side.code)
        assert opened.source == {"model": "made up"}
        assert opened.nbytes < archive.nbytes + 4 * TOKENS + 2500  # positions; the header
    for pair, back in zip(decode(archive, code), found, strict=True):
        for x, y in zip(pair, back, strict=True):
            assert np.array_equal(x, y)


def test_side_data_inside(code: Code, archive: Archive, tmp_path: Path) -> None:
    """An archive that needs no other file."""
    path = tmp_path / "own.safetensors"
    write_archive(path, contents(code), archive.first, archive.stretches, code, None, "test")
    with ArchiveFile(path) as opened:
        own = opened.code()
        assert own is not None
        found = decode(of_file(opened), own)
    assert np.array_equal(found[3][0], decode(archive, code)[3][0])


def test_equal_input_gives_equal_bytes(
    code: Code, archive: Archive, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Nothing of time or chance is in a file; an existing one is not replaced unasked."""
    made, side = tmp_path / "cache.safetensors", tmp_path / "side.safetensors"
    fingerprint = write_code(side, code, {"model": "made up"})
    for _ in range(2):
        write_archive(
            made,
            contents(code),
            archive.first,
            archive.stretches,
            code,
            fingerprint,
            "test",
            force=True,
        )
        assert made.read_bytes() == files[0].read_bytes()
    with pytest.raises(UsageError, match="exists"):
        write_archive(made, contents(code), archive.first, [], code, fingerprint, "test")
    assert sorted(p.name for p in tmp_path.iterdir()) == [made.name, side.name]


def test_append(code: Code, archive: Archive, files: tuple[Path, Path], helpers: Any) -> None:
    """A conversation goes on: what was there is copied, the rest is a stretch of its own."""
    cache = helpers.Cache(900, seed=42)
    longer = files[0].parent / "longer.safetensors"
    with ArchiveFile(files[0]) as opened, CodeFile(files[1]) as side:
        more = Encoder(side.code).stretches(cache.read, opened.tokens, 900)
        everything = [*opened.stretches(), *more]
        write_archive(
            longer,
            contents(code, 900),
            opened.first(),
            everything,
            side.code,
            side.fingerprint,
            "test",
        )
        with ArchiveFile(longer) as again:
            assert again.places[:3] == opened.places
            assert again.places[3:] == [(700, 200, 1)]
            for i in range(3):
                assert np.array_equal(again.chunk(i).payload, opened.chunk(i).payload)
            found = decode(of_file(again), side.code, start=690, stop=710, dtype=np.float32)
    before = decode(archive, code, start=690, dtype=np.float32)
    for layer, (k, v) in enumerate(found):
        assert np.array_equal(k[:, :10], before[layer][0])
        wanted = helpers.join(*cache.read(layer, 700, 710))
        assert np.abs(helpers.join(k[:, 10:], v[:, 10:]) - wanted).max() < np.abs(wanted).max()


def damage(path: Path, target: Path, where: int) -> None:
    """A copy with one bit of the data, counted from the end, turned."""
    raw = bytearray(path.read_bytes())
    raw[-where] ^= 1
    target.write_bytes(raw)


def test_a_damaged_chunk_costs_its_tokens_only(
    code: Code, archive: Archive, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """It is named by its tokens; the others are read."""
    path = tmp_path / "bad.safetensors"
    damage(files[0], path, 5)
    with ArchiveFile(path) as opened:
        last = len(opened.places) - 1
        with pytest.raises(InputError, match=r"tokens 516 to 700: .*chunks.2: checksum"):
            opened.chunk(last)
        kept = [opened.chunk(i) for i in range(last)]
        stretch = replace(archive.stretches[0], tables=opened.tables(0), chunks=kept)
    partial = Archive(TOKENS, archive.first, [stretch])
    whole = decode(archive, code, stop=516)
    for pair, back in zip(whole, decode(partial, code, stop=516), strict=True):
        for x, y in zip(pair, back, strict=True):
            assert np.array_equal(x, y)


def test_other_side_data_is_refused(files: tuple[Path, Path], helpers: Any, tmp_path: Path) -> None:
    """Of another step, or for other layers."""
    other = tmp_path / "other.safetensors"
    write_code(other, helpers.code(0.2, 2, 1), {"model": "made up"})
    with (
        ArchiveFile(files[0]) as opened,
        CodeFile(other) as side,
        pytest.raises(InputError, match="made with other side data"),
    ):
        opened.check(side.code, side.fingerprint)


def rewritten(path: Path, target: Path, change: Any) -> None:
    """A copy whose metadata went through `change`, with checksums that hold."""
    from tqcli.kv.container import ContainerWriter
    from tqcli.kv.tensorfile import ALL_DTYPES, TensorFile

    with TensorFile(path, ALL_DTYPES) as file:
        record = json.loads(file.metadata["tq"])
        tensors = {}
        for name, entry in file.entries.items():
            tensors[name] = np.empty(entry.shape, entry.dtype)
            file.read(entry, 0, tensors[name])
    record.pop("checksum")
    record["tensors"] = {}
    change(record, tensors)
    specs = [(name, array.dtype, array.shape) for name, array in tensors.items()]
    with ContainerWriter(target, specs, record) as writer:
        for name, array in tensors.items():
            writer.write(name, [array])


def _drop(name: str) -> Any:
    return lambda record, tensors: (record.pop(name, None), tensors.pop(name, None))


def _put(name: str, value: Any) -> Any:
    return lambda record, tensors: record.__setitem__(name, value)


def _tensor(name: str, value: Any) -> Any:
    return lambda record, tensors: tensors.__setitem__(name, value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_put("schema", "tq.dump/2"), "schema 'tq.dump/2'; an archive is"),
        (_drop("source"), "metadata of an archive is missing"),
        (_drop("chunks"), "metadata of an archive is missing"),
        (_put("tokens", -1), "metadata of an archive is missing"),
        (_put("tokens", True), "metadata of an archive is missing"),
        (_put("tokens", 701), "chunks up to token 700 of 701"),
        (_put("keep_first", 5), "do not follow one another"),
        (_put("chunks", [[4, 256, 0], [260, 256, 2], [516, 184, 2]]), "do not follow one another"),
        (_put("chunks", [[4, 696, 0]]), "do not follow one another"),
        (_put("chunks", [[4, 256, 0], [260, 256]]), "metadata of an archive is missing"),
        (_put("layers", []), "0 layers"),
        (_put("shapes", [[2, 8, 6]] * 3), "4 layers, shapes of 3"),
        (_put("shapes", [[2, 8, 7]] * 4), "first: float16"),
        (_put("code", {"fingerprint": "md5:00"}), "fingerprint of the side data"),
        (_drop("first"), "lacks first"),
        (_drop("chunks.1"), "lacks chunks.1"),
        (_drop("tables.0"), "lacks tables.0"),
        (_tensor("chunks.9", np.zeros(3, np.uint8)), "unknown tensor 'chunks.9'"),
        (_tensor("code.layers.0.k.mean", np.zeros(3, np.float32)), "unknown tensor 'code"),
        (_tensor("tables.0", np.zeros((2, 2), np.uint8)), "tables.0: uint8 of one axis"),
        (_tensor("first", np.zeros((4, 112), np.float32)), "first: float32"),
        (_tensor("positions", np.zeros(3, np.float32)), "positions"),
    ],
)
def test_metadata_that_lies(
    files: tuple[Path, Path], tmp_path: Path, change: Any, says: str
) -> None:
    """Each lie is one line, before anything is decoded."""
    path = tmp_path / "lie.safetensors"
    rewritten(files[0], path, change)
    with pytest.raises(InputError, match=says):
        ArchiveFile(path)


def test_side_data_that_lies(files: tuple[Path, Path], tmp_path: Path) -> None:
    """The same for its own file; an archive is none."""
    path = tmp_path / "lie.safetensors"
    rewritten(files[1], path, _tensor("groups.1.shifts", np.full(56, 99, np.int8)))
    with pytest.raises(InputError, match=r"lie.safetensors: archive code: groups.1.shifts"):
        CodeFile(path)
    path.unlink()
    rewritten(files[1], path, _drop("code"))
    with pytest.raises(InputError, match="metadata lacks 'code'"):
        CodeFile(path)
    with pytest.raises(InputError, match="side data of an archive is"):
        CodeFile(files[0])
    with pytest.raises(InputError, match="an archive is"):
        ArchiveFile(files[1])
