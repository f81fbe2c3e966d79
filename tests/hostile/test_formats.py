"""Blocks of one format under the name of another, and codebooks that are none."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tqcli.codebook import read_codebook, shipped, stock
from tqcli.errors import InputError

from .conftest import Refused
from .containers import record_of, with_record
from .test_metadata import mutants, survives

CODEC_BYTES = {"turbo3-b32": 14, "turbo3": 50, "turbo3-v0": 52, "turbo3-qjl": 52, "turbo4": 66}


@pytest.mark.parametrize("said", CODEC_BYTES)
@pytest.mark.parametrize("made", ["turbo3-b32", "turbo3", "turbo3-v0"])
def test_block_sizes(
    made: str, said: str, dump: Path, tq: Callable[..., Any], refused: Refused
) -> None:
    """14, 50 and 52 bytes are three formats: a record that says another is refused by its size.

    Formats of one size cannot be told apart by it, which is why files carry the id.
    """
    tq("quantize", dump, "-o", "p.safetensors", "-ctk", made, "-ctv", made)
    file = Path("p.safetensors").read_bytes()
    record = record_of(file)
    for tensor in record["tensors"].values():
        tensor["codec"] = {"id": said}
    Path("p.safetensors").write_bytes(with_record(file, record))
    arguments = ("unpack", "p.safetensors", "-o", "b.safetensors")
    if CODEC_BYTES[said] == CODEC_BYTES[made]:
        assert tq(*arguments).code == 0
        return
    blocks = 128 // (32 if made == "turbo3-b32" else 128)
    refused(*arguments, matching=rf"layers.0.k.blocks: {blocks} blocks of {CODEC_BYTES[made]} "
            rf"bytes a vector; {said} of head_dim 128 has")  # fmt: skip


@pytest.mark.parametrize("head_dim", [0, -1, 1, 127, 129, 256, 2**40])
def test_head_dim_of_other_blocks(
    head_dim: int, packed: Path, packed_bytes: bytes, tq: Callable[..., Any], refused: Refused
) -> None:
    """A head_dim that the blocks cannot hold is refused; a shorter one only cuts more padding."""
    record = record_of(packed_bytes)
    for tensor in record["tensors"].values():
        tensor["head_dim"] = head_dim
    packed.write_bytes(with_record(packed_bytes, record))
    if 1 <= head_dim <= 128:
        assert tq("unpack", packed, "-o", "b.safetensors").code == 0
    else:
        refused("unpack", packed, "-o", "b.safetensors", matching="head_dim|empty axis")


@pytest.mark.parametrize("count", [0, 3])
def test_codecs_per_head(count: int, packed: Path, packed_bytes: bytes, refused: Refused) -> None:
    """There is one codec for all heads or one a head."""
    record = record_of(packed_bytes)
    record["tensors"]["layers.0.k.blocks"]["codec"] = [{"id": "turbo3"}] * count
    packed.write_bytes(with_record(packed_bytes, record))
    refused("inspect", packed, matching=f"{count} codecs for 2 heads")


def test_other_dump(dump: Path, packed: Path, dump_bytes: bytes, refused: Refused) -> None:
    """A packed cache is not measured against a dump that it was not made from."""
    dump.write_bytes(dump_bytes[:-2] + b"\0\1")
    refused("evaluate", dump, packed, matching="made from another dump.*--force")


@pytest.mark.parametrize("name", ["turbo", "TURBO3", "turbo3 ", "q8_0+rot7", "turbo3+rot", "../x"])
def test_unknown_type(name: str, dump: Path, refused: Refused) -> None:
    """A type that does not exist is a usage error before any file is made."""
    code = 3 if name == "q8_0+rot7" else 2
    refused("quantize", dump, "-o", "o.safetensors", "-ctk", name, code=code, matching="rot|known")
    refused("compare", dump, "-t", f"turbo3/{name}" if name[0] != "." else name, code=code)


@pytest.mark.parametrize("kind", ["q8_0", "f16", "turbo3-qjl"])
def test_codebook_for_a_type_without(kind: str, dump: Path, refused: Refused) -> None:
    """A codebook is not silently ignored."""
    write(stock_document())
    refused("quantize", dump, "-o", "o.safetensors", "-ctk", kind, "--codebook", "b.json",
            code=2, matching="takes no codebook")  # fmt: skip


def stock_document() -> dict[str, Any]:
    """A legal codebook file."""
    return {
        "schema": "tq.codebook/1",
        "id": "mine",
        "bits": 3,
        "dim": 128,
        "tables": {
            "*": {
                "centroids": list(stock("turbo-3bit").centroids),
                "boundaries": list(stock("turbo-3bit").boundaries),
                "provenance": {"made_by": "hand"},
            }
        },
        "provenance": {},
    }


def write(document: Any, **fields: Any) -> None:
    """A codebook file with other fields, or other fields of its table."""
    made = copy.deepcopy(document)
    for key, value in fields.items():
        (made if key in made else made["tables"]["*"])[key] = value
    Path("b.json").write_text(json.dumps(made))


LEVELS = list(stock("turbo-3bit").centroids)
EDGES = list(stock("turbo-3bit").boundaries)

BOOKS: dict[str, tuple[dict[str, Any], str]] = {
    "short": ({"centroids": LEVELS[:-1]}, "7 centroids; this many bits need 8"),
    "long": ({"centroids": [*LEVELS, 1.0]}, "9 centroids"),
    "no boundaries": ({"boundaries": []}, "0 boundaries"),
    "unsorted": ({"centroids": LEVELS[::-1]}, "out of order"),
    "swapped": ({"centroids": [LEVELS[1], LEVELS[0], *LEVELS[2:]]}, r"centroids\[0:2\]"),
    "duplicate": ({"centroids": [LEVELS[0], LEVELS[0], *LEVELS[2:]]}, "twice the same value"),
    "boundaries unsorted": ({"boundaries": EDGES[::-1]}, "boundaries.*out of order"),
    "boundary outside": ({"boundaries": [-9.0, *EDGES[1:]]}, "does not lie between"),
    "NaN": ({"centroids": [float("nan"), *LEVELS[1:]]}, "NaN is no JSON number"),
    "infinite": ({"centroids": [*LEVELS[:-1], float("inf")]}, "Infinity is no JSON number"),
    "equal in float32": (
        {"centroids": [*LEVELS[:-1], LEVELS[-2] * (1 + 1e-12)],
         "boundaries": [*EDGES[:-1], LEVELS[-2] * (1 + 5e-13)]},
        "not distinct in float32",
    ),
    "denormal": (
        {"centroids": [x * 1e-44 for x in LEVELS], "boundaries": [x * 1e-44 for x in EDGES]},
        "not distinct in float32",
    ),
    "huge": (
        {"centroids": [x * 1e30 for x in LEVELS], "boundaries": [x * 1e30 for x in EDGES]},
        "standard deviations out",
    ),
    "wrong unit": ({"dim": 10**18}, "dim 1000000000000000000 may be wrong"),
    "texts": ({"centroids": "01234567"}, "'centroids' is of type str"),
    "bools": ({"centroids": [False, *LEVELS[1:]]}, "holds False"),
    "bits as text": ({"bits": "3"}, "'bits' is of type str"),
    "bits 3.5": ({"bits": 3.5}, "'bits' is of type float"),
    "bits 0": ({"bits": 0}, "0 bits; 1 to 8"),
    "bits 10^9": ({"bits": 10**9}, "1000000000 bits"),
    "dim 0": ({"dim": 0}, "dim 0"),
    "other bits": ({"bits": 2, "centroids": LEVELS[2:6], "boundaries": EDGES[2:5]}, "2 bits"),
    "no tables": ({"tables": {}}, "no tables"),
    "tables for others": ({"tables": {"layers.7": stock_document()["tables"]["*"]}},
                          "no table for layers.0.k"),
    "schema": ({"schema": "tq.codebook/2"}, "'tq.codebook/2'; this version reads"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOOKS)
def test_no_codebook(name: str, dump: Path, refused: Refused) -> None:
    """Each way to be no codebook is told, with the file or the codebook named."""
    fields, matching = BOOKS[name]
    write(stock_document(), **fields)
    line = refused("quantize", dump, "-o", "o.safetensors", "--codebook", "b.json",
                   matching=matching)  # fmt: skip
    assert "b.json" in line or "mine" in line


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff\xfe", b"[", b"3", b"null", b'{"a":1,"a":2}'])
def test_no_json(data: bytes, dump: Path, refused: Refused) -> None:
    """Bytes that are no JSON object are refused by inspect and quantize alike."""
    Path("b.json").write_bytes(data)
    refused("inspect", "b.json", matching="b.json: ")
    refused("quantize", dump, "-o", "o.safetensors", "--codebook", "b.json", matching="b.json: ")


def test_every_field_of_a_codebook(folder: Path) -> None:
    """Each field replaced by every wrong thing: one typed error or a codebook."""
    path = folder / "b.json"
    legal = 0
    for what, document in mutants(stock_document()):
        path.write_text(json.dumps(document))
        try:
            legal += survives(read_codebook, path) is None
        except Exception as error:
            pytest.fail(f"{what}: {error!r}")
    assert legal < 100


def test_truncated_codebook(folder: Path) -> None:
    """A codebook cut at any length is refused."""
    text = json.dumps(stock_document())
    for length in range(len(text)):
        (folder / "b.json").write_text(text[:length])
        with pytest.raises(InputError, match=r"b\.json: "):
            read_codebook(folder / "b.json")


def test_shipped_codebooks_are_legal() -> None:
    """The strict rules hold for what is shipped."""
    assert len(shipped()) > 10
    for name in shipped():
        assert stock(name).bits in range(1, 9)
