"""Metadata of the right form and the wrong content: refused by name, or legal after all."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tqcli.errors import InputError
from tqcli.kv.dump import open_dump
from tqcli.kv.packed import open_packed
from tqcli.pipeline.inspect import inspect_path
from tqcli.pipeline.unpack import decoded

from .conftest import Refused
from .containers import file_of, raw, record_of, sha256, split, with_record

# One of each JSON type, and numbers and texts that are legal JSON and nonsense here.
WRONG: list[Any] = [
    None, True, 0, -1, 3, 2**62, 1.5, 1e300, "", "abc", "\x1b[31m", "\ud800", "a" * 64,
    [], [1], [None], [[]], {}, {"id": 3}, {"id": "turbo9"}, {"a": {"b": []}},
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every node of a JSON document, as keys from its root."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 2)):
            yield from places(value[index], (*path, index))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The document with another node at `path`."""
    if not path:
        return value
    made = copy.deepcopy(document)
    node = made
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return made


def removed(document: Any, path: tuple[Any, ...]) -> Any:
    """The document without the node at `path`."""
    made = copy.deepcopy(document)
    node = made
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return made


def mutants(record: Any) -> Iterator[tuple[str, Any]]:
    """Every node replaced by every wrong value, and every node left out."""
    for path in places(record):
        for value in WRONG:
            yield f"{path} = {value!r}", replaced(record, path, value)
        if path:
            yield f"{path} removed", removed(record, path)


def survives(read: Callable[[Path], object], path: Path) -> str | None:
    """Why reading ended, if it ended in the one way it may; any other exception passes through."""
    try:
        read(path)
    except InputError as error:
        line = str(error)
    else:
        return None
    assert "\n" not in line
    assert line.startswith(str(path))
    return line


@pytest.fixture(scope="module")
def full_dump(packed_bytes: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A dump with a whole record: what unpacking writes."""
    from tqcli import unpack

    folder = tmp_path_factory.mktemp("full")
    (folder / "p.safetensors").write_bytes(packed_bytes)
    with open_packed(folder / "p.safetensors") as packed:
        unpack(packed, folder / "d.safetensors")
    return (folder / "d.safetensors").read_bytes()


@pytest.fixture(scope="module")
def fitted_packed(dump_bytes: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A packed cache whose record holds a table for each head."""
    from tqcli import CacheType, quantize
    from tqcli.pipeline.fit import FitOptions, fit_codebook

    folder = tmp_path_factory.mktemp("fitted")
    (folder / "d.safetensors").write_bytes(dump_bytes)
    with open_dump(folder / "d.safetensors") as dump:
        books, _ = fit_codebook([dump], FitOptions(bits=2, per="head"), "own")
        kind = CacheType("turbo2", books)
        quantize(dump, folder / "p.safetensors", kind, kind)
    return (folder / "p.safetensors").read_bytes()


def read_dump(path: Path) -> None:
    """Everything a command reads of a dump."""
    inspect_path(path)
    with open_dump(path) as dump:
        dump.fingerprint()
        for tensor in dump:
            tensor.stored.read()


def read_packed(path: Path) -> None:
    """Everything a command reads of a packed cache."""
    inspect_path(path)
    with open_packed(path) as packed:
        for tensor in packed.tensors:
            for _ in decoded(packed, tensor):
                pass


@pytest.mark.parametrize("kind", ["dump", "packed", "packed with tables"])
def test_every_field(
    kind: str, folder: Path, full_dump: bytes, packed_bytes: bytes, fitted_packed: bytes
) -> None:
    """Each field of the record is replaced by every wrong thing: one typed error or a reading."""
    file, read = {
        "dump": (full_dump, read_dump),
        "packed": (packed_bytes, read_packed),
        "packed with tables": (fitted_packed, read_packed),
    }[kind]
    path = folder / "x.safetensors"
    path.write_bytes(file)
    assert survives(read, path) is None
    refusals = 0
    for what, record in mutants(record_of(file)):
        path.write_bytes(with_record(file, record))
        try:
            refusals += survives(read, path) is not None
        except Exception as error:
            pytest.fail(f"{what}: {error!r}")
    assert refusals > 100


@pytest.mark.parametrize(
    "field", ["codec", "codec id", "head_dim", "dtype", "digest", "checksum", "schema", "source"]
)
def test_required_fields(field: str, folder: Path, packed_bytes: bytes, refused: Refused) -> None:
    """A packed cache without one of these cannot be decoded: nobody guesses what it is."""
    record = record_of(packed_bytes)
    tensor = record["tensors"]["layers.0.k.blocks"]
    if field == "codec id":
        tensor["codec"] = {}
    else:
        (record if field in record else tensor).pop(field)
    (folder / "x.safetensors").write_bytes(with_record(packed_bytes, record))
    refused("unpack", "x.safetensors", "-o", "o.safetensors", matching=field.split()[0])


TEXTS = {
    "not JSON": ("{schema: 1}", "not JSON"),
    "a number": ("17", "a JSON int; an object is legal"),
    "null": ("null", "NoneType"),
    "NaN": ('{"schema": NaN}', "NaN is no JSON number"),
    "1e999": ('{"schema": 1e999}', "beyond float64"),
    "5000 digits": ('{"schema": ' + "9" * 5000 + "}", "5000 digits"),
    "deep": ('{"source": ' + "[" * 100_000 + "]" * 100_000 + "}", "not JSON"),
    "deep enough to print badly": ('{"source": ' + "[" * 400 + "]" * 400 + "}", "deeper than"),
    "field twice": ('{"schema": "tq.dump/1", "schema": "tq.dump/2"}', "occurs twice"),
    "huge as objects": ("[" + "[]," * 2_000_000 + "0]", "at most 1048576"),
    "escaped brackets": (json.dumps("[" + "[]," * 2_000_000 + "0]")[1:-1], "at most 1048576"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_no_record(name: str, folder: Path, dump_bytes: bytes, refused: Refused) -> None:
    """Text that strict JSON does not allow, or that explodes when parsed, is refused."""
    text, matching = TEXTS[name]
    (folder / "x.safetensors").write_bytes(with_record(dump_bytes, text))
    refused("inspect", "x.safetensors", matching=matching)


def test_escaped_marks(folder: Path, dump_bytes: bytes, refused: Refused) -> None:
    """Brackets hidden as escapes in the header are counted once they are brackets."""
    header, data = split(dump_bytes)
    header["__metadata__"] = {"tq": "@"}
    text = json.dumps(header).encode().replace(b"@", rb"[" + rb"\u005b\u005d," * 600_000 + b"0]")
    (folder / "x.safetensors").write_bytes(raw(text, data))
    refused("inspect", "x.safetensors", matching="values, at most", constant=32 << 20)


@pytest.mark.parametrize("schema", ["tq.dump/3", "tq.dump/0", "other/1", "", 7, None, ["x"]])
def test_unknown_schema(
    schema: Any, folder: Path, dump_bytes: bytes, packed_bytes: bytes, refused: Refused
) -> None:
    """A record of another version names itself and what this version reads."""
    record = {"schema": schema, "source": {}, "domain": "original", "tensors": {}}
    path = folder / "x.safetensors"
    if schema is not None:  # no schema at all is a plain file of arrays
        path.write_bytes(with_record(dump_bytes, record))
        line = refused("quantize", "x.safetensors", "-o", "o.safetensors", matching="tq.dump/2")
        assert repr(schema) in line
    path.write_bytes(with_record(packed_bytes, {**record_of(packed_bytes), "schema": schema}))
    line = refused("unpack", "x.safetensors", "-o", "o.safetensors", matching="tq.packed/2")
    assert repr(schema) in line


def test_dump_given_as_packed(dump: Path, refused: Refused, full_dump: bytes) -> None:
    """Mixing up the two containers is told as what it is."""
    dump.write_bytes(full_dump)
    refused("unpack", dump.name, "-o", "o.safetensors", matching="tq quantize")


def test_packed_given_as_dump(packed: Path, refused: Refused) -> None:
    """Mixing up the two containers is told as what it is."""
    refused("quantize", packed.name, "-o", "o.safetensors", matching="tq unpack")


def test_wrong_digest(folder: Path, values: Any, packed_bytes: bytes, refused: Refused) -> None:
    """Data that differ from their promised hash never become a result."""
    record = {
        "schema": "tq.dump/1",
        "source": {},
        "domain": "original",
        "tensors": {"layers.0.k": {"sha256": sha256(values + 1)}},
    }
    (folder / "x.safetensors").write_bytes(file_of({"layers.0.k": values}, record))
    for command in ("quantize x.safetensors -o o.safetensors", "evaluate x.safetensors",
                    "compare x.safetensors", "fit-codebook x.safetensors -o o.json",
                    "inspect x.safetensors --verify"):  # fmt: skip
        # Figures need the accumulators of a piece, and the null model once.
        refused(
            *command.split(),
            matching=r"layers.0.k: checksum is sha256:\w+\.\.\.",
            constant=64 << 20,
        )
    damaged = bytearray(packed_bytes)
    damaged[-1] ^= 1
    (folder / "x.safetensors").write_bytes(damaged)
    refused(
        "unpack",
        "x.safetensors",
        "-o",
        "o.safetensors",
        matching="layers.0.v.blocks: checksum is blake3:",
    )


def test_hash_of_no_tensor(folder: Path, dump_bytes: bytes, refused: Refused) -> None:
    """A record of a tensor that is not there speaks of another file."""
    record = {"schema": "tq.dump/1", "source": {}, "domain": "original",
              "tensors": {"layers.9.k": {}}}  # fmt: skip
    (folder / "x.safetensors").write_bytes(with_record(dump_bytes, record))
    refused("inspect", "x.safetensors", matching="metadata names 'layers.9.k'")


def test_escapes_do_not_reach_the_terminal(
    folder: Path, dump_bytes: bytes, tq: Callable[..., Any]
) -> None:
    """Control characters and lone surrogates in provenance are shown escaped."""
    record = {"schema": "tq.dump/1", "domain": "original", "tensors": {},
              "source": {"model": "\x1b[2Jx\ud800", "\x07": [1]}}  # fmt: skip
    (folder / "x.safetensors").write_bytes(with_record(dump_bytes, record))
    for form in ("table", "md", "csv", "json"):
        result = tq("inspect", "x.safetensors", "--format", form)
        assert (result.code, result.err) == (0, "")
        assert "\x1b" not in result.out
        assert "\x07" not in result.out
    assert r"\x1b[2Jx\ud800" in tq("inspect", "x.safetensors").out
