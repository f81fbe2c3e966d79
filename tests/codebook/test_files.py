"""Codebook files: what ships is what its script makes, and a hostile file is one error."""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tqcli.codebook import (
    Codebook,
    CodebookSet,
    dumps,
    exact_set,
    loads,
    read_codebook,
    shipped,
    stock,
)
from tqcli.errors import InputError, UsageError


@pytest.fixture(scope="module")
def make(root: Path) -> ModuleType:
    """The script that writes the shipped files."""
    spec = importlib.util.spec_from_file_location("make_codebooks", root / "codebooks" / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Computed levels are rounded to 12 decimals; another machine's exp may tip the last of them.
ROUNDING = 2e-12


def assert_same_file(made: Path, shipped: Path) -> None:
    """Byte for byte, or, for tables that are computed, up to the last rounded digit."""
    if made.read_bytes() == shipped.read_bytes():
        return
    assert not shipped.name.startswith("turbo")
    a, b = (json.loads(path.read_text()) for path in (made, shipped))
    for key in ("centroids", "boundaries"):
        assert a["tables"]["*"].pop(key) == pytest.approx(b["tables"]["*"].pop(key), abs=ROUNDING)
    distortions = [d["provenance"].pop("distortion") for d in (a, b)]
    assert distortions[0] == pytest.approx(distortions[1], abs=ROUNDING)
    assert a == b


def test_shipped_files_are_what_the_script_writes(
    make: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """Nobody edits a table by hand: the whole folder comes out of the script."""
    monkeypatch.setattr(make, "HERE", tmp_path)
    assert make.main() == 0
    made = sorted(tmp_path.iterdir())
    there = sorted(path.name for path in (root / "codebooks").glob("*.json"))
    assert [path.name for path in made] == [n for n in there if not n.startswith("trellis-")]
    assert [path.stem for path in made] == shipped()
    for path in made:
        assert_same_file(path, root / "codebooks" / path.name)
    assert make.main() == 0  # nothing to do, nothing to complain about


def test_the_script_never_overwrites(
    make: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that says something else stays, and the exit code tells."""
    monkeypatch.setattr(make, "HERE", tmp_path)
    (tmp_path / "turbo-3bit.json").write_text("{}")
    assert make.main() == 1
    assert (tmp_path / "turbo-3bit.json").read_text() == "{}"


def test_codebooks_of_a_source_tree(root: Path) -> None:
    """A checkout on the path works without being installed: the files lie beside the package."""
    if not (root / "tqcli").is_dir():
        pytest.skip("the tests stand beside an installed package")
    code = "import tqcli; print(tqcli.__file__, tqcli.codec('turbo3').codebook.id)"
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.split() == [str(root / "tqcli" / "__init__.py"), "turbo-3bit"]


@pytest.mark.parametrize("name", [n for n in shipped() if not n.startswith("turbo")])
def test_provenance_command_makes_the_file(
    name: str, tq: Callable[..., Any], tmp_path: Path, root: Path
) -> None:
    """Whoever doubts an exact table types the command that stands in it."""
    path = root / "codebooks" / f"{name}.json"
    program, *arguments = shlex.split(json.loads(path.read_text())["provenance"]["made_by"])
    assert program == "tq"
    assert arguments[-2:] == ["-o", path.name]
    assert tq(*arguments[:-1], tmp_path / path.name, "--quiet").code == 0
    assert_same_file(tmp_path / path.name, path)


# The positive halves as the format page prints them.
PRINTED = {
    "turbo-2bit": ((0.039994, 0.133462), (0.086728,)),
    "turbo-3bit@2026-03": (
        (0.021460, 0.065717, 0.117832, 0.190685),
        (0.043589, 0.091775, 0.154259),
    ),
    "turbo-3bit": ((0.021663, 0.066822, 0.118786, 0.190207), (0.044243, 0.092804, 0.154496)),
    "turbo-4bit@2026-03": (
        (0.006938, 0.020989, 0.035597, 0.051262, 0.068756, 0.089527, 0.117195, 0.173926),
        (0.013963, 0.028293, 0.043430, 0.060009, 0.079142, 0.103361, 0.145560),
    ),
    "turbo-4bit": (
        (0.011349, 0.034299, 0.058050, 0.083292, 0.111036, 0.143016, 0.182877, 0.241529),
        (0.022824, 0.046174, 0.070671, 0.097164, 0.127026, 0.162947, 0.212203),
    ),
}


@pytest.mark.parametrize("name", PRINTED)
def test_upstream_tables_are_as_printed(name: str) -> None:
    """Ties depend on the printed boundaries; recomputed means would move them."""
    levels, edges = PRINTED[name]
    book = stock(name)
    assert book.centroids == (*(-c for c in reversed(levels)), *levels)
    assert book.boundaries == (*(-b for b in reversed(edges)), 0.0, *edges)
    assert book.dim == 128


def test_round_trip() -> None:
    """Reading and writing a set with tables of several scopes loses nothing."""
    tables = {
        "*": Codebook("s", 1, 128, (-0.5, 0.5), (0.0,)),
        "layers.3.k.heads.1": Codebook(
            "s:layers.3.k.heads.1", 1, 128, (-0.25, 1.0), (0.125,), {"tokens": 5}
        ),
    }
    book = CodebookSet("s", tables, {"made_by": "hand"})
    again = loads(dumps(book), "s.json")
    assert again == book
    assert again.tables["layers.3.k.heads.1"].provenance == {"tokens": 5}
    assert dumps(again) == dumps(book)


def test_the_most_specific_table_serves() -> None:
    """Head before layer and side, before layer, before side, before all."""
    keys = ["*", "k", "layers.3", "layers.3.k", "layers.3.heads.1", "layers.3.k.heads.1"]
    tables = {k: Codebook(k, 1, 128, (-0.1 * i, 0.1 * i), (0.0,)) for i, k in enumerate(keys, 1)}
    places = [(0, "v", 0), (0, "k", 0), (3, "v", 0), (3, "k", 0), (3, "v", 1), (3, "k", 1)]
    book = CodebookSet("s", tables)
    assert [book.find(*place).id for place in places] == keys
    with pytest.raises(InputError, match=r"no table for layers\.0\.k head 2"):
        CodebookSet("s", {"v": tables["*"]}).find(0, "k", 2)


def test_unknown_stock_name() -> None:
    """The error suggests what ships."""
    with pytest.raises(UsageError, match=r"did you mean turbo-\dbit\? see tq types"):
        stock("turbo-9bit")


def test_identity_is_the_numbers() -> None:
    """Two names for one table are one codebook; another boundary is another."""
    a, b = (Codebook(name, 1, 128, (-0.5, 0.5), (0.0,)) for name in "ab")
    assert a.sha256 == b.sha256
    assert a.sha256 != Codebook("a", 1, 128, (-0.5, 0.5), (0.25,)).sha256
    assert a.sha256 != Codebook("a", 1, 64, (-0.5, 0.5), (0.0,)).sha256


def document(**changes: Any) -> dict[str, Any]:
    """A small legal document, with changes."""
    table = {"centroids": [-0.3, -0.1, 0.1, 0.3], "boundaries": [-0.2, 0.0, 0.2]}
    return {
        "schema": "tq.codebook/1",
        "id": "small",
        "bits": 2,
        "dim": 128,
        "tables": {"*": table | changes.pop("table", {})},
        "provenance": {},
    } | changes


NAN, INF = float("nan"), float("inf")
HOSTILE: dict[str, Any] = {
    "short": document(table={"centroids": [-0.3, -0.1, 0.1]}),
    "long": document(table={"centroids": [-0.3, -0.1, 0.1, 0.3, 0.5]}),
    "few boundaries": document(table={"boundaries": [-0.2, 0.2]}),
    "empty table": document(table={"centroids": [], "boundaries": []}),
    "unsorted": document(table={"centroids": [-0.1, -0.3, 0.1, 0.3]}),
    "descending": document(
        table={"centroids": [0.3, 0.1, -0.1, -0.3], "boundaries": [0.2, 0.0, -0.2]}
    ),
    "duplicate level": document(table={"centroids": [-0.1, -0.1, 0.1, 0.3]}),
    "duplicate boundary": document(table={"boundaries": [0.0, 0.0, 0.2]}),
    "NaN level": document(table={"centroids": [-0.3, NAN, 0.1, 0.3]}),
    "infinite level": document(table={"centroids": [-0.3, -0.1, 0.1, INF]}),
    "NaN boundary": document(table={"boundaries": [-0.2, NAN, 0.2]}),
    "levels that merge in float32": document(table={"centroids": [-0.3, 0.1 - 1e-12, 0.1, 0.3]}),
    "beyond float32": document(table={"centroids": [-1e300, -0.1, 0.1, 1e300]}),
    "boundary outside its levels": document(table={"boundaries": [-0.05, 0.0, 0.2]}),
    "boundary on a level": document(table={"boundaries": [-0.2, 0.1, 0.2]}),
    "text for a level": document(table={"centroids": [-0.3, -0.1, "x", 0.3]}),
    "object for levels": document(table={"centroids": {"a": 1}}),
    "no bits": {k: v for k, v in document().items() if k != "bits"},
    "0 bits": document(bits=0),
    "9 bits": document(bits=9),
    "40 bits": document(bits=40),
    "infinite bits": document(bits=INF),
    "dim 0": document(dim=0),
    "negative dim": document(dim=-128),
    "no tables": document(tables={}),
    "tables is a list": document(tables=[1]),
    "table is a number": document(tables={"*": 3}),
    "tables of several bits": document(
        tables=document()["tables"] | {"k": {"centroids": [-0.1, 0.1], "boundaries": [0.0]}}
    ),
    "unknown schema": document(schema="tq.codebook/9"),
    "no schema": {k: v for k, v in document().items() if k != "schema"},
    "a list": [1, 2],
    "null": None,
}


def test_the_legal_document_is_legal() -> None:
    """Otherwise the cases below would fail for another reason than theirs."""
    assert loads(json.dumps(document()), "x").tables["*"].centroids == (-0.3, -0.1, 0.1, 0.3)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_documents(case: str, tmp_path: Path) -> None:
    """Each way to be no codebook is one line that names the file."""
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(HOSTILE[case]))
    with pytest.raises(InputError) as caught:
        read_codebook(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


HOSTILE_TEXT = {
    "empty": b"",
    "no JSON": b"levels: 1 2 3",
    "truncated": json.dumps(document()).encode()[:-20],
    "deep": b"[" * 100_000,
    "not UTF-8": b'{"schema": "\xff"}',
    "binary": bytes(range(256)),
    "huge number": json.dumps(document()).replace("128", "1" + "0" * 5000).encode(),
}


@pytest.mark.parametrize("case", HOSTILE_TEXT)
def test_hostile_text(case: str, tmp_path: Path) -> None:
    """Text that is no document at all."""
    path = tmp_path / "bad.json"
    path.write_bytes(HOSTILE_TEXT[case])
    with pytest.raises(InputError) as caught:
        read_codebook(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_a_file(tmp_path: Path) -> None:
    """A folder, a missing file and an endless device are refused before they are read."""
    for path in (tmp_path, tmp_path / "none.json", Path("/dev/zero")):
        with pytest.raises(InputError, match=r"no regular file|no such file"):
            read_codebook(path)


def test_refused_on_the_command_line(tq: Callable[..., Any], tmp_path: Path, smollm: Path) -> None:
    """Exit 3, one line, nothing written."""
    bad, target = tmp_path / "bad.json", tmp_path / "out.safetensors"
    bad.write_text(json.dumps(HOSTILE["unsorted"]))
    result = tq("quantize", smollm, "-o", target, "--codebook", bad)
    assert (result.code, result.out, result.err.count("\n")) == (3, "", 1)
    assert str(bad) in result.err
    assert not target.exists()


def test_a_codebook_of_other_bits(tq: Callable[..., Any], tmp_path: Path, smollm: Path) -> None:
    """A legal table in the wrong format is refused before anything is written."""
    path, target = tmp_path / "four.json", tmp_path / "out.safetensors"
    path.write_text(dumps(exact_set("gaussian", 4)))
    result = tq("quantize", smollm, "-o", target, "--codebook", path)
    assert (result.code, result.out) == (3, "")
    assert "4 bits; turbo3 takes 3" in result.err
    assert not target.exists()
