"""A sharded result that replaces another: at every moment one of the two is there, whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tqcli
from tqcli.errors import InputError, UsageError
from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import dump_record

NAME = "d.safetensors"
INDEX = f"{NAME}.index.json"


def write(folder: Path, value: float, *, tensors: int = 1, force: bool = True) -> str:
    """A dump of three layers full of one value, with so many tensors a shard."""
    x = np.full((1, 2, 3, 64), value, np.float32)
    names = [f"layers.{i}.k" for i in range(3)]
    specs = [(name, x.dtype, x.shape) for name in names]
    record = dump_record({"kind": "test"}, "original", "test")
    options = {"max_shard_bytes": tensors * x.nbytes, "force": force}
    with ContainerWriter(folder / NAME, specs, record, **options) as writer:
        for name in names:
            writer.write(name, [x])
    return writer.result


def value_of(folder: Path) -> float:
    """The value that the dump at the index holds, everywhere and with checksums that hold."""
    with tqcli.open_dump(folder / INDEX) as dump:
        found = {float(v) for tensor in dump for v in np.unique(tensor.stored.read())}
    assert len(found) == 1
    return found.pop()


def shards(folder: Path) -> set[str]:
    """Names of all shards."""
    return {path.name for path in folder.glob("d-*.safetensors")}


def named(folder: Path) -> set[str]:
    """Names of the shards that the index names."""
    return set(json.loads((folder / INDEX).read_text())["weight_map"].values())


def test_names_are_tags_of_the_content(tmp_path: Path) -> None:
    """Equal content, equal names; the files of one result and no others remain."""
    write(tmp_path, 1.0)
    first = shards(tmp_path)
    assert first == named(tmp_path)
    write(tmp_path, 2.0)
    second = shards(tmp_path)
    assert second == named(tmp_path)
    assert not first & second
    write(tmp_path, 1.0)
    assert shards(tmp_path) == first
    write(tmp_path, 1.0)  # over itself
    assert shards(tmp_path) == first
    assert value_of(tmp_path) == 1.0


def attempt(
    folder: Path,
    patch: pytest.MonkeyPatch,
    step: str,
    call: int,
    error: BaseException,
    *,
    after: bool,
) -> bool:
    """Write over the result while one call of the system fails; whether it came to that call."""
    real, calls = getattr(os, step), 0

    def failing(*arguments: object, **options: object) -> None:
        nonlocal calls
        calls += 1
        if after:
            real(*arguments, **options)
        if calls == call:
            raise error
        if not after:
            real(*arguments, **options)

    with patch.context() as inner, suppress(KeyboardInterrupt, InputError, OSError):
        inner.setattr(os, step, failing)
        write(folder, 2.0)
    return calls >= call


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", ["replace", "fsync", "unlink"])
def test_interrupted_anywhere(
    step: str, after: bool, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rename, sync and removal fails once: then the old result stands, or the new one."""
    write(tmp_path, 1.0)
    old = shards(tmp_path)
    call = 1
    while attempt(tmp_path, monkeypatch, step, call, error, after=after):
        call += 1
        value = value_of(tmp_path)
        assert value in (1.0, 2.0)
        assert named(tmp_path) <= shards(tmp_path)
        if step != "unlink":  # nothing can be cleaned up where removing fails
            assert not list(tmp_path.glob(".d*"))
            assert value == 2.0 or shards(tmp_path) == old
        for name in {path.name for path in tmp_path.iterdir()} - named(tmp_path) - {INDEX}:
            (tmp_path / name).unlink()
        write(tmp_path, 1.0)
    assert call > 4


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
@pytest.mark.parametrize("at", range(1, 6))
def test_killed_between_renames(at: int, root: Path, tmp_path: Path) -> None:
    """Killed at any rename, with no chance to clean up: the old result reads whole."""
    write(tmp_path, 1.0)
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_replace import write
real, calls = os.replace, 0
def dying(*arguments):
    global calls
    calls += 1
    if calls == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*arguments)
os.replace = dying
write(Path({str(tmp_path)!r}), 2.0)
"""
    ended = subprocess.run([sys.executable, "-c", script], timeout=60, check=False, cwd=root)
    assert ended.returncode == (-signal.SIGKILL if at <= 4 else 0)
    assert value_of(tmp_path) == (1.0 if at <= 4 else 2.0)
    write(tmp_path, 3.0, force=True)
    assert value_of(tmp_path) == 3.0


def test_files_of_others_stay(tmp_path: Path) -> None:
    """An index that names files of another family does not cost them."""
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    homes = {"layers.0.k": "model.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": homes}))
    write(tmp_path, 1.0)
    assert value_of(tmp_path) == 1.0
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


def test_shards_of_version_1_are_replaced(tmp_path: Path) -> None:
    """Names without a tag, as version 1 wrote them, are removed after the index."""
    write(tmp_path, 1.0)
    homes = {}
    for number, name in enumerate(sorted(shards(tmp_path)), 1):
        homes[f"layers.{number - 1}.k"] = plain = f"d-0000{number}-of-00003.safetensors"
        (tmp_path / name).rename(tmp_path / plain)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": homes}))
    assert value_of(tmp_path) == 1.0
    write(tmp_path, 2.0)
    assert value_of(tmp_path) == 2.0
    assert shards(tmp_path) == named(tmp_path)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    """Without --force a stray shard of the same content is taken, another file is not."""
    write(tmp_path, 1.0)
    (tmp_path / INDEX).unlink()
    write(tmp_path, 1.0, force=False)
    assert value_of(tmp_path) == 1.0
    (tmp_path / INDEX).unlink()
    victim = sorted(shards(tmp_path))[1]
    (tmp_path / victim).write_bytes(b"precious")
    with pytest.raises(UsageError, match=f"{victim}: exists"):
        write(tmp_path, 1.0, force=False)
    assert (tmp_path / victim).read_bytes() == b"precious"
    assert not (tmp_path / INDEX).exists()


def test_shards_of_two_results(tmp_path: Path) -> None:
    """A shard of another run under the right name is found, though its own checksums hold."""
    write(tmp_path, 1.0)
    first = sorted(shards(tmp_path))
    kept = (tmp_path / first[0]).read_bytes()
    write(tmp_path, 2.0)
    (tmp_path / sorted(shards(tmp_path))[0]).write_bytes(kept)
    with pytest.raises(InputError, match="not those that the index was written for"):
        tqcli.open_dump(tmp_path / INDEX)


def test_output_over_a_shard_of_the_input(tmp_path: Path, tq: Callable[..., Any]) -> None:
    """A single shard given as the dump would be removed with the result it belongs to."""
    write(tmp_path, 1.0, tensors=2)
    shard = tmp_path / sorted(shards(tmp_path))[0]
    before = shard.read_bytes()
    ended = tq("quantize", shard, "-o", tmp_path / NAME, "--max-shard-size", 1, "--force")
    assert (ended.code, "is the input itself" in ended.err) == (2, True)
    assert shard.read_bytes() == before
