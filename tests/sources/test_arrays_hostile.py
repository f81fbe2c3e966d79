"""Array files nobody should trust: one line, exit 3, and no memory for what is not there."""

from __future__ import annotations

import io
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tqcli.errors import InputError
from tqcli.sources.arrays.source import ArraysSource, Choice

ONE = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
K = Choice(side="k")


def npy(array: np.ndarray, **kwargs: object) -> bytes:
    """The bytes of a .npy file."""
    out = io.BytesIO()
    np.save(out, array, **kwargs)  # type: ignore[arg-type]
    return out.getvalue()


def with_header(text: str, data: bytes = b"") -> bytes:
    """A version 1.0 .npy file with any header."""
    body = text.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + data


def described(shape: str, dtype: str = "<f4") -> bytes:
    """A header that says this shape, and 96 bytes of data."""
    return with_header(
        f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}", bytes(96)
    )


def bomb() -> bytes:
    """A small archive that unpacks to 64 MiB of zeros."""
    out = io.BytesIO()
    np.savez_compressed(out, **{"layers.0.k": np.zeros((1, 1, 1 << 18, 64), np.float32)})
    return out.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    """A zip file of these members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return out.getvalue()


class Trap:
    """Leaves a mark if it is ever unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        """Run a command."""
        return os.mkdir, ("unpickled",)


HOSTILE = {
    "empty": (b"", "npy"),
    "seven bytes": (b"\x93NUMPY\x01", "npy"),
    "bare pickle": (pickle.dumps(Trap()), "npy"),
    "object array": (npy(np.array([Trap()], dtype=object), allow_pickle=True), "npy"),
    "object in npz": (
        archive({"layers.0.k.npy": npy(np.array([Trap()], dtype=object), allow_pickle=True)}),
        "npz",
    ),
    "big-endian": (npy(ONE.astype(">f4")), "npy"),
    "integers": (npy(ONE.astype(np.int32)), "npy"),
    "bfloat16 without a name": (npy(ONE.astype(ml_dtypes.bfloat16)), "npy"),
    "structured": (npy(np.zeros(4, [("a", "<f4"), ("b", "<f4")])), "npy"),
    "version 9": (b"\x93NUMPY\x09\x00" + npy(ONE)[8:], "npy"),
    "version 3": (b"\x93NUMPY\x03\x00" + npy(ONE)[8:], "npy"),
    "trailing byte": (npy(ONE) + b"x", "npy"),
    "huge": (described("(8589934592, 8589934592)"), "npy"),
    "overflowing": (described("(4294967296, 4294967296, 4294967296, 1)"), "npy"),
    "negative": (described("(-1, -24)"), "npy"),
    "bool lengths": (described("(True, 24)"), "npy"),
    "float lengths": (described("(2.0, 12)"), "npy"),
    "shape is no tuple": (described("24"), "npy"),
    "nested header": (with_header("(" * 3000), "npy"),
    "code in the header": (with_header("__import__('os').mkdir('unpickled')"), "npy"),
    "header of 64 KiB": (b"\x93NUMPY\x01\x00\xff\xff" + bytes(65535), "npy"),
    "header of 4 GiB": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100), "npy"),
    "empty axis": (npy(np.zeros((1, 0, 3, 4), np.float32)), "npy"),
    "no archive": (b"PK\x03\x04" + bytes(50), "npz"),
    "archive of nothing": (archive({}), "npz"),
    "zip bomb": (bomb(), "npz"),
    "two members of a name": (
        # written under two names of one length, then renamed
        archive({"layers.0.k.npy": npy(ONE), "layers.0.K.npy": npy(ONE)}).replace(b".K.", b".k."),
        "npz",
    ),
    "member is no array": (archive({"layers.0.k.npy": b"hello world"}), "npz"),
    "short member": (archive({"layers.0.k.npy": npy(ONE)[:-1]}), "npz"),
    "no safetensors": (b"hello world", "safetensors"),
    "safetensors header 2^60": ((1 << 60).to_bytes(8, "little") + b"{}", "safetensors"),
    "unknown suffix": (npy(ONE), "txt"),
}


def read(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Open a file and take everything out of it."""
    with ArraysSource([path], K) as source:
        yield from source.tensors()


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to be wrong is one typed line; nothing is run, nothing large is allocated."""
    monkeypatch.chdir(tmp_path)
    data, suffix = HOSTILE[case]
    Path(f"a.{suffix}").write_bytes(data)
    size = Path(f"a.{suffix}").stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            dict(read(Path(f"a.{suffix}")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert not Path("unpickled").exists()
    assert peak < 2 * size + (2 << 20)


@pytest.mark.parametrize("name", ["none.npy", ".", "fifo.npy", "/dev/zero"])
def test_not_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, an empty folder, a pipe that would block, a device without end."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.npy")
    path = Path(name)
    if name == ".":
        Path("fifo.npy").unlink()
    if name == "/dev/zero":
        path = Path("zero.npy")
        path.symlink_to("/dev/zero")
    with pytest.raises(InputError):
        ArraysSource([path], K)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_every_truncation(kind: str, tmp_path: Path) -> None:
    """Cut anywhere, a file is refused."""
    path = tmp_path / f"a.{kind}"
    whole = npy(ONE) if kind == "npy" else archive({"layers.0.k.npy": npy(ONE)})
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            dict(read(path))


def test_file_that_shrinks(tmp_path: Path) -> None:
    """The header promised more than is there when the data is read: no crash, one line."""
    path = tmp_path / "a.npy"
    path.write_bytes(npy(np.zeros((1, 2, 4096, 64), np.float32)))
    with ArraysSource([path], K) as source:
        os.truncate(path, 4096)
        with pytest.raises(InputError, match="shrank"):
            list(source.tensors())


def test_archive_with_a_wrong_checksum(tmp_path: Path) -> None:
    """A flipped bit in a member's data is found."""
    path = tmp_path / "a.npz"
    data = bytearray(archive({"layers.0.k.npy": npy(ONE)}))
    data[data.index(npy(ONE)) + 140] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged archive"):
        dict(read(path))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data(), st.sampled_from(["npy", "npz", "safetensors"]))
def test_flipped_bytes(tmp_path: Path, data: st.DataObject, kind: str) -> None:
    """A damaged file is read or refused, never a traceback."""
    from safetensors.numpy import save

    whole = {
        "npy": npy(ONE),
        "npz": archive({"layers.0.k.npy": npy(ONE)}),
        "safetensors": save({"layers.0.k": ONE}),
    }[kind]
    damaged = bytearray(whole)
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    path = tmp_path / f"a.{kind}"
    path.write_bytes(damaged)
    try:
        got = dict(read(path))
    except InputError as error:
        refused = str(error)
    else:
        refused = ""
        assert all(values.nbytes <= 2 * len(whole) for values in got.values())
    assert "\n" not in refused
