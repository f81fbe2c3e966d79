"""``tq dump`` end to end on arrays, and shards that survive an interruption."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tqcli import cli
from tqcli.errors import InputError, TqError
from tqcli.kv.dump import open_dump
from tqcli.pipeline.dump import write_dump
from tqcli.sources.arrays.source import ArraysSource

LAYERS = 4


@pytest.fixture
def arrays(tmp_path: Path) -> dict[str, np.ndarray]:
    """K and V of four layers in a .npz named ``kv.npz``."""
    rng = np.random.default_rng(97)
    tensors = {
        f"layers.{i}.{side}": rng.standard_normal((1, 2, 5, 16)).astype(np.float32)
        for i in range(LAYERS)
        for side in "kv"
    }
    np.savez(tmp_path / "kv.npz", **tensors)
    return tensors


def tq(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line; its exit code."""
    monkeypatch.setattr(sys, "argv", ["tq", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def check(path: str | Path, expected: dict[str, np.ndarray]) -> None:
    """The dump holds exactly these tensors and its hashes are right."""
    with open_dump(path) as dump:
        assert {t.name for t in dump.tensors} == set(expected)
        for tensor in dump.tensors:
            np.testing.assert_array_equal(tensor.stored.read(), expected[tensor.name])


def test_arrays_to_dump(
    tmp_path: Path,
    arrays: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command writes what the arrays hold and reports it as JSON on stdout."""
    out = tmp_path / "dump.safetensors"
    assert tq(monkeypatch, "dump", tmp_path / "kv.npz", "-o", out, "--json") == 0
    check(out, arrays)
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "tq.dump/1"
    assert [row["tensor"] for row in report["rows"]] == list(arrays)
    assert report["source"]["kind"] == "arrays"


def test_some_layers(
    tmp_path: Path, arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--layers keeps what it names and nothing else."""
    out = tmp_path / "dump.safetensors"
    assert tq(monkeypatch, "dump", tmp_path / "kv.npz", "-o", out, "--layers", "0,2-3") == 0
    check(out, {name: t for name, t in arrays.items() if "layers.1." not in name})


def test_save_file_to_packed_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--packed keeps llama.cpp's blocks; decoding them gives the dump without --packed."""
    save = Path(__file__).parents[2] / "fixtures" / "llamacpp" / "q8_0-flash-seq.bin"
    shape = ("--heads", 3, "--head-dim", 64)
    packed, dump = tmp_path / "p.safetensors", tmp_path / "d.safetensors"
    assert tq(monkeypatch, "dump", save, *shape, "--packed", "-o", packed) == 0
    assert tq(monkeypatch, "dump", save, *shape, "-o", dump) == 0
    back = tmp_path / "b.safetensors"
    assert tq(monkeypatch, "unpack", packed, "-o", back) == 0
    with open_dump(dump) as one, open_dump(back) as two:
        assert one.layers == two.layers
        for tensor in one.tensors:
            other = two.get(tensor.layer, tensor.side)
            assert other is not None
            assert tensor.stored.read().tobytes() == other.stored.read().tobytes()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [(["kv.npz", "-o", "x.bin"], 2, "*.safetensors"),
     (["kv.npz", "-o", "kv.npz"], 2, "*.safetensors"),
     (["kv.npz", "-o", "there.safetensors"], 2, "--force"),
     (["kv.npz", "-o", "d.safetensors", "--queries"], 2, "--queries"),
     (["kv.npz", "-o", "d.safetensors", "--fork", "buun"], 2, "--fork"),
     (["kv.npz", "-o", "d.safetensors", "--packed"], 2, "--packed"),
     (["kv.npz", "-o", "d.safetensors", "--nonfinite", "skip"], 2, "--nonfinite"),
     (["kv.npz", "-o", "d.safetensors", "--layers", "0,9"], 2, "no layer [9]"),
     (["kv.npz", "-o", "d.safetensors", "--layers", "first"], 2, "--layers"),
     (["missing.npz", "-o", "d.safetensors"], 3, "cannot be read"),
     (["nothing", "-o", "d.safetensors"], 2, "no such source"),
     (["smollm2", "-o", "d.safetensors"], 2, "--prompt"),
     (["smollm2", "-o", "d.safetensors", "--prompt", "a", "--axes", "seq,dim"], 2, "--axes")],
)  # fmt: skip
def test_one_line_and_no_file(
    tmp_path: Path,
    arrays: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    """Every mistake ends in one line that names it, and leaves the folder as it was."""
    monkeypatch.chdir(tmp_path)
    Path("there.safetensors").write_bytes(b"mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert tq(monkeypatch, "dump", *arguments) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert words in output.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_values_that_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error names the place and leaves nothing; zero replaces them and says how many."""
    k = np.ones((1, 2, 5, 16), np.float32)
    k[0, 1, 3, 7] = np.inf
    np.savez(tmp_path / "kv.npz", **{"layers.0.k": k, "layers.0.v": np.ones_like(k)})
    with ArraysSource([tmp_path / "kv.npz"]) as source:
        with pytest.raises(InputError, match=r"layers\.0\.k: .* head 1 token 3 dim 7"):
            write_dump(source, tmp_path / "d.safetensors")
        assert [path.name for path in tmp_path.iterdir()] == ["kv.npz"]
        result, rows = write_dump(source, tmp_path / "d.safetensors", nonfinite="zero")
    assert [row["zeroed_values"] for row in rows] == [1, 0]
    check(result, {"layers.0.k": np.where(np.isinf(k), 0, k), "layers.0.v": np.ones_like(k)})


def test_typed_errors_only(tmp_path: Path) -> None:
    """A rule that means nothing for a dump is refused by the library too."""
    np.savez(tmp_path / "kv.npz", **{"layers.0.k": np.ones((1, 1, 1, 8), np.float32)})
    with ArraysSource([tmp_path / "kv.npz"]) as source, pytest.raises(TqError):
        write_dump(source, tmp_path / "d.safetensors", nonfinite="skip")
