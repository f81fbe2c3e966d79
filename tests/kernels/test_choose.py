"""The choice of a kernel, and the extension's own last checks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from tqcli import kernels
from tqcli.errors import UsageError
from tqcli.kernels import choose

SHOW = "import tqcli.kernels as k; print(k.active())"


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_best_first() -> None:
    """Without a wish the first kernel runs, and NumPy is always there."""
    assert kernels.available()[-1] == "numpy"
    with kernels.use(kernels.available()[0]):
        assert kernels.active() == kernels.available()[0]


def test_use_restores() -> None:
    """A forced kernel is forced inside its block only, even if the block fails."""
    before = kernels.active()
    seen = []

    def fail() -> None:
        with kernels.use("numpy"):
            seen.append(kernels.active())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == ["numpy"]
    assert kernels.active() == before


def test_environment_forces(kernel: str) -> None:
    """TQ_KERNEL takes any kernel of this machine."""
    found = _run(SHOW, TQ_KERNEL=kernel)
    assert (found.stdout, found.returncode) == (f"{kernel}\n", 0), found.stderr


def test_unusable_name() -> None:
    """A kernel that is not there is an error that names those that are."""
    with pytest.raises(UsageError, match=r"no kernel 'avx9000' .* numpy"), kernels.use("avx9000"):
        pass
    found = _run(SHOW, TQ_KERNEL="avx9000")
    assert found.returncode != 0
    assert "UsageError: TQ_KERNEL: no kernel 'avx9000'" in found.stderr


def test_without_the_extension() -> None:
    """A build without a compiler has NumPy alone, and everything works."""
    code = (
        "import sys; sys.modules['tqcli.kernels._native'] = None\n"
        "import numpy as np, tqcli.kernels as k\n"
        "from tqcli.codecs.turbo import TurboCodec\n"
        "layout = TurboCodec('turbo3').layout\n"
        "blocks = k.encode(np.ones((3, 128), np.float32), layout)\n"
        "print(k.available(), k.codes(blocks, layout).shape, k.decode(blocks, layout).shape)\n"
    )
    found = _run(code, TQ_KERNEL="")
    assert found.stdout == "('numpy',) (3, 128) (3, 128)\n", found.stderr


def test_threads_default() -> None:
    """The default number of threads can be set and unset."""
    cores = choose.threads()
    kernels.set_threads(3)
    try:
        assert choose.threads() == 3
    finally:
        kernels.set_threads(None)
    assert choose.threads() == cores >= 1


def _calls(layout: Any) -> list[tuple[str, tuple[Any, ...]]]:
    x, blocks = np.zeros(128 * 2, np.float32), np.zeros(100, np.uint8)
    codes, packed = np.zeros(256, np.uint8), np.zeros(96, np.uint8)
    return [
        ("encode", (0, layout, x[:-1], 0, blocks)),
        ("encode", (0, layout, x, 0, blocks[:-1])),
        ("encode", (0, layout, x, 1, blocks)),
        ("encode", (0, layout, x, 3, blocks)),
        ("encode", (-1, layout, x, 0, blocks)),
        ("encode", (99, layout, x, 0, blocks)),
        ("encode", (0, layout, x, 0, x[:25])),
        ("decode", (0, layout, blocks, 0, x[:-128], False)),
        ("decode", (0, layout, blocks[:-1], 0, x, False)),
        ("decode", (0, layout, blocks, -1, x, False)),
        ("pack", (0, 3, 128, codes[:-8], packed)),
        ("pack", (0, 3, 128, codes, packed[:-1])),
        ("pack", (0, 5, 128, codes, packed)),
        ("pack", (0, 3, 0, codes, packed)),
        ("pack", (0, 3, 4, codes, packed)),
        ("unpack", (0, 3, 128, 0, packed, codes[:-1])),
        ("unpack", (0, 3, 128, 2, packed, codes)),
        ("unpack", (0, 3, 128, -8, packed, codes)),
    ]


@pytest.mark.parametrize("place", range(18))
def test_extension_checks_lengths(native: str, helpers: Any, place: int) -> None:
    """Even a wrong caller cannot make the extension leave an array."""
    capsule = kernels.layout_capsule(helpers.layout(3))
    name, arguments = _calls(capsule)[place]
    with pytest.raises(ValueError, match=r"lengths|memory|kernel|float type|bits|header"):
        getattr(choose.native, name)(*arguments)


def test_extension_refuses_layouts() -> None:
    """The extension indexes by a layout's numbers, so it checks them as well."""
    if choose.native is None:
        assert kernels.available() == ("numpy",)
        return
    floats = np.zeros(15 + 257, np.float32)
    assert choose.native.layout(3, 128, 128, 2, True, floats) is not None
    for numbers in ((1, 128, 128, 2), (3, 96, 96, 2), (3, 128, 16, 2), (3, 64, 128, 2)):
        with pytest.raises(ValueError, match="must"):
            choose.native.layout(*numbers, True, floats)
    with pytest.raises(ValueError, match="floats"):
        choose.native.layout(3, 128, 128, 2, True, floats[:-1])


def test_threads_are_bounded(native: str, helpers: Any) -> None:
    """However many parts a call is cut into, no more threads are kept than there are cores."""
    x = np.zeros((40_000, 128), np.float32)
    for threads in range(2, 12):
        kernels.encode(x, helpers.layout(3), threads=threads)
    kept = [t for t in threading.enumerate() if t.name.startswith("tq-kernel")]
    assert 1 <= len(kept) <= max(choose.threads() - 1, 1)
