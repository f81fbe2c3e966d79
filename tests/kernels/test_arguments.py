"""Bad arguments reach no kernel: each is one line that says what came and what is legal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tqcli import kernels
from tqcli.errors import InputError, UsageError

N = 5


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.zeros((N, 128), np.float64), "dtype float64"),
        (np.zeros((N, 128), ">f4"), "dtype >f4"),
        (np.zeros((N, 128), np.int32), "dtype int32"),
        (np.zeros((N, 127), np.float32), r"shape \(5, 127\)"),
        (np.zeros(128, np.float32), r"shape \(128,\)"),
        (np.zeros((1, N, 128), np.float32), r"shape \(1, 5, 128\)"),
        ([[0.0] * 128], "list"),
    ],
)
def test_encode_input(kernel: str, helpers: Any, bad: Any, says: str) -> None:
    """Only rows of a group's length, of a float type of this machine."""
    with pytest.raises(InputError, match=says):
        kernels.encode(bad, helpers.layout(3))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.zeros((N, 50), np.int8), "dtype int8"),
        (np.zeros((N, 49), np.uint8), r"shape \(5, 49\)"),
        (np.zeros(50, np.uint8), r"shape \(50,\)"),
        (bytes(50), "bytes"),
    ],
)
def test_decode_input(kernel: str, helpers: Any, bad: Any, says: str) -> None:
    """Only rows of a group's bytes."""
    for function in (kernels.decode, kernels.codes):
        with pytest.raises(InputError, match=says):
            function(bad, helpers.layout(3))


@pytest.mark.parametrize("dtype", [np.float64, np.int16, "no such type", ">f2"])
def test_decode_dtype(kernel: str, helpers: Any, dtype: Any) -> None:
    """Only the three float types."""
    with pytest.raises(InputError, match="float32, float16 or bfloat16"):
        kernels.decode(np.zeros((N, 50), np.uint8), helpers.layout(3), dtype=dtype)


def _outputs() -> list[tuple[Any, str]]:
    frozen = np.zeros((N, 50), np.uint8)
    frozen.flags.writeable = False
    return [
        (np.zeros((N, 51), np.uint8), r"\(5, 51\)"),
        (np.zeros((N + 1, 50), np.uint8), r"\(6, 50\)"),
        (np.zeros((N, 50), np.int8), "int8"),
        (np.zeros((N, 100), np.uint8)[:, ::2], "strides"),
        (np.zeros((50, N), np.uint8).T, "strides"),
        (frozen, "read-only"),
        (bytearray(N * 50), "bytearray"),
    ]


@pytest.mark.parametrize(("out", "says"), _outputs())
def test_encode_output(kernel: str, helpers: Any, out: Any, says: str) -> None:
    """An output is written in place, so it must be exactly what is written."""
    with pytest.raises(InputError, match=says):
        kernels.encode(np.ones((N, 128), np.float32), helpers.layout(3), out=out)


def test_overlap(kernel: str, helpers: Any) -> None:
    """An output over its own input would be read after it was written."""
    layout = helpers.layout(3)
    memory = np.zeros((N, 512), np.uint8)
    x = memory.view(np.float32)
    with pytest.raises(InputError, match="memory of the input"):
        kernels.encode(x, layout, out=memory.reshape(-1)[: N * 50].reshape(N, 50))
    with pytest.raises(InputError, match="memory of the input"):
        kernels.decode(memory.reshape(-1)[: N * 50].reshape(N, 50), layout, out=x)
    with pytest.raises(InputError, match="memory of the input"):
        kernels.pack_codes(memory, 4, out=memory.reshape(-1)[: N * 256].reshape(N, 256))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_level_too_large(kernel: str, bits: int) -> None:
    """A level that needs more bits would spill into its neighbour; the largest is named."""
    codes = np.zeros((4, 16), np.uint8)
    codes[2, 9] = 2**bits
    with pytest.raises(InputError, match=f"level {2**bits}; 0 to {2**bits - 1}"):
        kernels.pack_codes(codes, bits)
    codes[2, 9] = 255
    with pytest.raises(InputError, match="level 255"):
        kernels.pack_codes(codes, bits)


@pytest.mark.parametrize(
    ("codes", "bits", "says"),
    [
        (np.zeros((4, 12), np.uint8), 3, "multiple of 8"),
        (np.zeros((4, 0), np.uint8), 3, "multiple of 8"),
        (np.zeros((), np.uint8), 3, "multiple of 8"),
        (np.zeros((4, 16), np.int64), 3, "dtype int64"),
        (np.zeros((4, 16), np.uint8), 5, "2, 3 or 4"),
        ([1, 2], 3, "list"),
    ],
)
def test_pack_input(kernel: str, codes: Any, bits: int, says: str) -> None:
    """Runs are whole bytes of every plane."""
    with pytest.raises(InputError, match=says):
        kernels.pack_codes(codes, bits)


def test_unpack_input(kernel: str) -> None:
    """Three bits come in threes of bytes."""
    with pytest.raises(InputError, match="multiple of 3"):
        kernels.unpack_codes(np.zeros((2, 32), np.uint8), 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bits": 5}, "bits: 5"),
        ({"group": 96}, "group 96"),
        ({"block": 16}, "block 16"),
        ({"block": 256}, "block 256"),
        ({"header": 3}, "header 3"),
        ({"centroids": np.zeros(7, np.float32)}, "centroids"),
        ({"centroids": np.zeros(8)}, "centroids"),
        ({"midpoints": np.full(7, np.nan, np.float32)}, "non-finite"),
        ({"midpoints": np.arange(7, 0, -1).astype(np.float32)}, "out of order"),
    ],
)
def test_layout(kernel: str, helpers: Any, change: dict[str, Any], says: str) -> None:
    """Kernels index by a layout's numbers, so a wrong one is refused."""
    layout = replace(helpers.layout(3), **change)
    with pytest.raises(InputError, match=says):
        kernels.encode(np.zeros((N, 128), np.float32), layout)


@pytest.mark.parametrize("threads", [0, -1])
def test_thread_count(native: str, helpers: Any, threads: int) -> None:
    """A number of threads is at least one."""
    with pytest.raises(UsageError, match="at least 1"):
        kernels.encode(np.zeros((N, 128), np.float32), helpers.layout(3), threads=threads)
    with pytest.raises(UsageError, match="at least 1"):
        kernels.set_threads(threads)
