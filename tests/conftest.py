"""What several folders of tests share: fixtures on disk, kernels, and a way to run ``tq``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# As the commands set it, before NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

from tqcli import cli, kernels
from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import dump_record, open_dump

ROOT = Path(__file__).resolve().parent.parent
# Property tests draw the same cases in every run; the fuzzers under tests/fuzz draw new ones.
settings.register_profile("tq", derandomize=True, deadline=None)
settings.load_profile("tq")


class Result(NamedTuple):
    """How one command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout; the code under test is the installed package, not this."""
    return ROOT


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of files that are never regenerated."""
    return ROOT / "fixtures"


@pytest.fixture(scope="session")
def qwen(fixtures: Path) -> Path:
    """Real K, V and Q of four layers, head_dim 128; layer 0 has a huge common offset in K."""
    return fixtures / "kv" / "qwen2.5-coder-1.5b.safetensors"


@pytest.fixture(scope="session")
def smollm(fixtures: Path) -> Path:
    """Real K, V and Q of four layers, head_dim 64."""
    return fixtures / "kv" / "smollm2-135m.safetensors"


@pytest.fixture(scope="session")
def kv(qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """K and V alone, of Qwen's layers 0 and 14: what most tests of commands need, and no more."""
    path = tmp_path_factory.mktemp("dumps") / "kv.safetensors"
    with open_dump(qwen) as dump:
        chosen = [t for t in dump.kv() if t.layer in (0, 14)]
        specs = [(t.name, t.dtype, t.shape) for t in chosen]
        record = dump_record(dump.source, "original", "test")
        with ContainerWriter(path, specs, record) as writer:
            for tensor in chosen:
                writer.write(tensor.name, [tensor.stored.read()])
    return path


@pytest.fixture(params=kernels.available())
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every kernel that this machine can run, one after the other."""
    with kernels.use(request.param):
        yield request.param


@pytest.fixture(scope="session")
def gaussian() -> Callable[..., np.ndarray]:
    """Standard normal float32 arrays; no seed of a rotation is ever used."""

    def make(*shape: int, seed: int = 7) -> np.ndarray:
        if seed in (42, 1042):
            raise ValueError("a seed that a rotation is made from")
        return np.random.default_rng(seed).standard_normal(shape, np.float32)

    return make


@pytest.fixture
def tq(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Run ``tq`` in this process with these arguments; exit code, stdout and stderr come back."""

    def run(*arguments: object) -> Result:
        monkeypatch.delenv("TQ_DEBUG", raising=False)
        monkeypatch.setattr(sys, "argv", ["tq", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Result(int(ended.value.code or 0), out, err)

    return run
