"""Any numbers may come to the extension: it raises, and never reads past an array or dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Every integer of every call is replaced by every number here, alone and with another; arrays by
# empty ones and by ones that begin at an odd address. What comes back or is raised is the
# program's own affair; that it ends is ours.
PROGRAM = """
import itertools, sys
import numpy as np
from tqcli import kernels
from tqcli.codecs import codec
from tqcli.archive.tables import family
from tqcli.kernels import attend, choose, products, rans

NUMBERS = (-2**63, -2**62, -2**31, -64, -1, 0, 1, 3, 64, 2**31, 2**61, 2**62, 2**62 + 1, 2**63 - 64,
           2**63 - 1)
capsule = kernels.layout_capsule(codec("turbo3").layout)
f32 = lambda *shape: np.ones(shape, np.float32)
f64 = lambda *shape: np.ones(shape)
u8 = lambda *shape: np.zeros(shape, np.uint8)
f16, i8 = np.ones((5, 128), np.float16), np.ones((2, 128), np.int8)
index = int(sys.argv[1])
calls = {
    "layout": (3, 128, 128, 2, True, f32(272)),
    "encode": (index, capsule, f32(5, 128), 0, u8(5, 50)),
    "decode": (index, capsule, u8(5, 50), 0, f32(5, 128), False),
    "pack": (index, 3, 128, u8(5, 128), u8(5, 48)),
    "unpack": (index, 3, 128, 2, u8(5, 50), u8(5, 128)),
    "scores": (index, capsule, 2, f32(2, 128), u8(5, 50), f32(2, 5), 0),
    "scores_int8": (index, capsule, 2, i8, f32(2), i8[0, :8].copy(), u8(5, 50), f32(2, 5), 0),
    "weighted_sum": (index, capsule, 2, 128, 5, f32(2, 5), 0, u8(5, 50), np.ones((1, 2, 128))),
    "scores_f16": (index, 2, f32(2, 128), f16, f32(2, 5), 0),
    "weighted_sum_f16": (index, 2, 128, 5, f32(2, 5), 0, f16, np.ones((1, 2, 128))),
    "take_mean": (index, 128, 64, False, f32(5, 64), f32(5, 64), f16, 1, f32(128), f32(5, 128)),
    "give_mean": (index, 128, 64, True, f32(5, 64), f32(5, 64), f32(5, 128), 1, f32(128), f16 + 0),
    "sum_keys": (index, 128, 64, False, f32(5, 64), f32(5, 64), f16, 1, np.ones(128), 0, 64),
    "errors": (index, f32(5, 128), 0, f32(5, 128), 128, f64(5, 5), f64(2, 128)),
    "moments": (index, f32(5, 128), 0, 128, f32(128), f64(2)),
    "summarize": (f64(5, 5), f64(7), np.zeros(5, np.uint32)),
}


class Recorder:
    # The extension, remembering what each function was called with last.

    def __init__(self, module):
        self.module, self.calls = module, {}

    def __getattr__(self, name):
        def call(*arguments):
            self.calls[name] = arguments
            return getattr(self.module, name)(*arguments)

        return call if callable(getattr(self.module, name)) else getattr(self.module, name)


# What takes tables and factors of its own is called as the library calls it.
recorder = choose.native = Recorder(choose.native)
trellis, x = codec("trellis3"), f32(5, 128)
blocks = trellis.encode(x)
trellis.decode(blocks)
codec("turbo3").encode(x, weights=f32(128))
attend.scores(x[:2], blocks.reshape(5, -1), trellis.layout)
tables, choice = family(), np.zeros(4, np.uint8)
stream = rans.encode(np.zeros((4, 8), np.int16), tables, choice)
rans.decode(stream, tables, choice, 8)
products.multiply(np.ones((3, 4), np.int16), np.ones((4, 5), np.int16), shifts=np.zeros(3, np.int8))
choose.native = recorder.module
calls |= {name: of for name, of in recorder.calls.items() if name not in calls}
missing = {name for name in dir(choose.native) if name[0] != "_"} - set(calls) - {"kernels"}
assert not missing, missing


def variants(value):
    if isinstance(value, int):
        return NUMBERS
    if isinstance(value, np.ndarray):
        odd = np.zeros(value.nbytes + 1, np.uint8)[1:]
        return (value[:0], odd.view(value.dtype).reshape(value.shape))
    return ()


tried = 0
for name, arguments in calls.items():
    function = getattr(choose.native, name)
    function(*arguments)
    for places in itertools.combinations_with_replacement(range(len(arguments)), 2):
        for values in itertools.product(*(variants(arguments[i]) for i in places)):
            changed = list(arguments)
            for place, value in zip(places, values):
                changed[place] = value
            tried += 1
            try:
                function(*changed)
            except (ValueError, OverflowError, MemoryError, TypeError):
                pass
print("tried", tried)
"""


def test_no_number_kills_it(native: str) -> None:
    """An overflowing product of sizes is a division by zero or a short buffer, elsewhere."""
    from tqcli.kernels import choose

    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(choose.index())],
        env=os.environ | {"TQ_KERNEL": native},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[1]) > 10_000


@pytest.fixture
def sources(root: Path) -> dict[str, str]:
    """The C files of a checkout by name; a wheel has none."""
    folder = root / "tqcli" / "kernels" / "native"
    if not folder.is_dir():
        pytest.skip("needs a checkout")
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.[ch]")}


@pytest.mark.parametrize("call", ["_mm_prefetch(", "__builtin_prefetch("])
def test_addresses_past_arrays_are_numbers(sources: dict[str, str], call: str) -> None:
    """C has no pointers past an array, so what is fetched early goes through one function."""
    assert {name for name, text in sources.items() if call in text} == {"tq.h"}


@pytest.mark.parametrize("kind", ["f32", "u16", "f16"])
def test_neon_reads_bytes(sources: dict[str, str], kind: str) -> None:
    """A load of floats promises their alignment, which an array need not have."""
    calls = [f"{verb}{q}_{kind}(" for verb in ("vld1", "vst1") for q in ("", "q")]
    neon = {name: text for name, text in sources.items() if "neon" in name}
    assert neon
    assert [(name, call) for name, text in neon.items() for call in calls if call in text] == []
