"""Documentation that cannot rot: generated pages, examples that run, commands that exist."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

import tqcli
from tqcli.cli import app
from tqcli.report.figures import ROWS

ROOT: Any = get_command(app)
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/format.md",
    "docs/measures.md",
    "docs/python.md",
    "docs/stored-caches.md",
)


def script(path: Path) -> ModuleType:
    """A script of the docs folder as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(line: str) -> str:
    """Parse ``tq ...`` as the shell and the app would, without running it; the command's name."""
    words = shlex.split(line, comments=True)
    assert words[0] == "tq"
    if words[1:] == ["--version"]:
        return "--version"
    command = ROOT.commands[words[1]]
    command.make_context(words[1], words[2:])
    return words[1]


@pytest.mark.parametrize("page", ["cli.md", "figures.md"])
def test_generated_pages(page: str, root: Path) -> None:
    """They are what docs/generate.py writes: edit the help texts or figures, run `make docs`."""
    written = (root / "docs" / page).read_text(encoding="utf-8")
    assert written == script(root / "docs" / "generate.py").PAGES[page]()


@pytest.mark.parametrize("name", ROOT.commands)
def test_help(name: str) -> None:
    """Every command says in a line what it does, and shows an example that parses."""
    command = ROOT.commands[name]
    first, *lines = command.help.splitlines()
    assert first.endswith(".")
    assert len(first) < 100
    (example,) = [line for line in lines if line.startswith("Example: ")]
    assert parse(example.removeprefix("Example: ")) == name


@pytest.mark.parametrize("name", ROOT.commands)
def test_every_option_is_explained(name: str) -> None:
    """An option without a help text might as well not exist."""
    bare = [p.name for p in ROOT.commands[name].params if not getattr(p, "help", None)]
    assert bare == []


@pytest.mark.parametrize("name", ROOT.commands)
def test_shared_options_are_the_same(name: str) -> None:
    """What two commands call alike means the same: formats, force, quiet, outputs."""
    params = {p.name: p for p in ROOT.commands[name].params}
    if "format" in params:
        assert params["format"].default == "table"
        assert "json" in params
    if "output" in params:
        assert "-o" in params["output"].opts
        assert "force" in params
    for option, side in (("cache_type_k", "k"), ("cache_type_v", "v")):
        if option in params:
            assert params[option].opts == [f"-ct{side}", f"--cache-type-{side}"]


def commands_in(text: str) -> Iterator[str]:
    """Lines of code blocks that run tq."""
    for line in text.splitlines():
        if re.match(r"( {4}|\$ )tq ", line):
            yield line.strip().removeprefix("$ ")


@pytest.mark.parametrize("page", PAGES)
def test_commands_on_pages(page: str, root: Path) -> None:
    """What a page tells people to type is understood."""
    for line in commands_in((root / page).read_text(encoding="utf-8")):
        parse(line)


def test_readme_shows_the_six(root: Path) -> None:
    """The commands that were promised stand on the first page."""
    shown = {parse(line) for line in commands_in((root / "README.md").read_text(encoding="utf-8"))}
    assert {"fit-codebook", "quantize", "unpack", "evaluate", "compare"} <= shown
    assert "dump" in ROOT.commands


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_exist(page: str, root: Path) -> None:
    """`make demo` and `make test` are the whole installation guide."""
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))
    text = (root / page).read_text(encoding="utf-8")
    told = {
        word
        for words in re.findall(r"^ {4}make ([a-z -]+?)(?: *#.*)?$", text, re.M)
        for word in words.split()
    }
    assert told
    assert told <= targets


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str, root: Path) -> None:
    """Relative links point at files that are there."""
    text = (root / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert ((root / page).parent / target).exists(), target


def test_readme_table(root: Path) -> None:
    """The table on the first page is drawn from the stored report, to the letter."""
    module = script(root / "docs" / "readme_table.py")
    text, stored = (root / "README.md").read_text(encoding="utf-8"), module.read()
    assert set(module.commands(text)) == set(stored)
    assert module.page(text, stored) == text


def test_readme_report(root: Path) -> None:
    """What the command finds today is the stored report, up to the order in which BLAS adds."""
    module = script(root / "docs" / "readme_table.py")
    stored = module.read()
    assert (
        module.differences(stored, {command: module.measure(command) for command in stored}) == []
    )


@pytest.mark.parametrize(
    ("stored", "found", "same"),
    [
        (0.5, 0.5 + 4e-5, True),
        (0.5, 0.5 + 4e-4, False),
        (0.0, 1e-9, False),
        (3, 3, True),
        (3, 3.0, False),
        (None, 0.0, False),
        ("fine", "degraded", False),
        ([0.5], [0.5, 0.5], False),
        ({"top1": 0.5}, {"top1": 0.5005}, True),
        ({"top1": 0.5}, {"top1": 0.505}, False),
        ({"nmse": 0.5}, {"mse": 0.5}, False),
    ],
)
def test_reports_are_compared_as_numbers(root: Path, stored: Any, found: Any, same: bool) -> None:
    """As numbers, within what rounding can do, and in nothing else."""
    module = script(root / "docs" / "readme_table.py")
    assert (module.differences(stored, found) == []) == same


def test_python_page(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of the library runs and prints what the page says."""
    monkeypatch.chdir(root)
    result = doctest.testfile(str(root / "docs" / "python.md"), module_relative=False)
    assert result.attempted > 15
    assert result.failed == 0


def modules() -> list[str]:
    """Every module of the package but the compiled one."""
    found = [m.name for m in pkgutil.walk_packages(tqcli.__path__, "tqcli.")]
    return [name for name in found if not name.endswith(("._native", ".__main__", ".make"))]


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples in docstrings are run where they stand."""
    monkeypatch.chdir(root)
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_docstring_examples() -> None:
    """Otherwise the test above would pass on nothing."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    count = sum(
        bool(test.examples)
        for name in modules()
        for test in finder.find(importlib.import_module(name))
    )
    assert count >= 10


@pytest.mark.parametrize("name", tqcli.__all__)
def test_public_names(name: str) -> None:
    """Each exists and is documented, with parameters where it takes any."""
    public = getattr(tqcli, name)
    if name == "__version__":
        assert re.match(r"\d+\.\d+", public)
        return
    assert public.__doc__
    assert name in (tqcli.__doc__ or "") or name == "CacheType"


def test_evaluate_lists_its_keys() -> None:
    """The docstring of the public function names what it returns, and nothing that it does not."""
    x = np.ones((1, 4, 8), np.float32)
    returns = (tqcli.evaluate.__doc__ or "").split("Returns\n")[1].split("Raises\n")[0]
    named = set(re.findall(r"``([a-z_0-9]+)``", returns))
    assert named == set(tqcli.evaluate(x, x))
    assert named <= set(ROWS)


def test_completion_shows_public_names() -> None:
    """What a notebook offers behind `tqcli.` are the documented names, not our imports."""
    assert dir(tqcli) == sorted(tqcli.__all__)


def test_public_names_come_late() -> None:
    """`import tqcli` alone loads no NumPy; an unknown name is an AttributeError."""
    assert "numpy" in sys.modules  # loaded by the tests, not by what follows
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = tqcli.quantise
    assert set(tqcli._HOME) == set(tqcli.__all__)


@pytest.mark.parametrize("page", [*PAGES, "docs/cli.md", "docs/figures.md"])
def test_pages_speak_of_the_project_alone(page: str, root: Path) -> None:
    """No machine, no folder of an author, no trace of how a page was made."""
    text = (root / page).read_text(encoding="utf-8")
    assert not re.search(r"/home/|/Users/|/root/|/work/|localhost|file://", text)
