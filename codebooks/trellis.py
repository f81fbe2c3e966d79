"""Train the shipped trellis tables; refuses to overwrite a file that says something else.

Run from a checkout with tq installed: ``python codebooks/trellis.py``. Every number is drawn from
one seed, and encoding is tq's own, the same on every machine.

A table starts from ``a * window + c``, modulo its size and read as a quantile of the Gaussian: for
a good odd `a` the values that leave a state and those that meet in one are both spread evenly.
From there the windows chosen for Gaussian vectors and the centroids of what chose them take turns
(as in Lloyd's algorithm), under a little noise that dies down. The table that does best on vectors
of its own is kept.
"""

import sys
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from tqcli import kernels, rotation
from tqcli.codebook import TrellisTable
from tqcli.kernels.layout import TRELLIS_UNIT, WINDOWS, TrellisLayout

HERE = Path(__file__).parent
SEED = 7_260_117
GROUP = 128
NOISE = {2: 0.08, 3: 0.08, 4: 0.04}  # standard deviations, at first
ROUNDS, NOISY = 60, 36  # of turns; of them under noise
POLISH = 12  # turns on more vectors, for the best few
FINALISTS = 6
VECTORS = {"train": 500, "polish": 8000, "judge": 8000}


class Data:
    """Gaussian vectors, rotated and of unit variance: float64 ``(GROUP, n)``."""

    def __init__(self, n: int, *key: int) -> None:
        rng = np.random.default_rng([SEED, *key])
        self.x = rng.standard_normal((n, GROUP)).astype(np.float32)
        y = np.ascontiguousarray(rotation.rotate(self.x).T, np.float64)
        self.y = y * np.sqrt(GROUP / np.square(y).sum(axis=0))


@cache
def data(n: int, *key: int) -> Data:
    """Vectors are the same for every start."""
    return Data(n, *key)


def encoded(values: np.ndarray, bits: int, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Windows ``(GROUP, n)`` and the scale of each vector, for a table rounded to its unit."""
    entries = np.clip(np.rint(values / TRELLIS_UNIT), -127, 127).astype(np.int8)
    layout = TrellisLayout(bits, GROUP, entries)
    windows = np.ascontiguousarray(kernels.codes(kernels.encode(data.x, layout), layout).T)
    found = layout.values.astype(np.float64)[windows]
    return windows, (data.y * found).sum(axis=0) / np.square(found).sum(axis=0)


def error(values: np.ndarray, bits: int, data: Data) -> float:
    """Error energy over signal energy."""
    windows, scale = encoded(values, bits, data)
    rounded = np.rint(values / TRELLIS_UNIT) * TRELLIS_UNIT
    return float(np.square(data.y - scale * rounded[windows]).sum(axis=0).mean() / GROUP)


def centroids(values: np.ndarray, bits: int, data: Data) -> np.ndarray:
    """The table with the least squared error for the windows that `values` lead to."""
    windows, scale = encoded(values, bits, data)
    flat, size = windows.ravel(), len(values)
    products = np.bincount(flat, (data.y * scale).ravel(), size)
    squares = np.bincount(flat, np.broadcast_to(scale**2, windows.shape).ravel(), size)
    return np.where(squares > 0, products / np.maximum(squares, 1e-12), values)


def start(bits: int, factor: int, offset: int) -> np.ndarray:
    """Gaussian quantiles in the order of a multiplicative hash."""
    size = 2 ** WINDOWS[bits]
    places = (np.arange(size) * factor + offset) % size
    return np.array([NormalDist().inv_cdf((place + 0.5) / size) for place in places])


def trained(bits: int, factor: int, offset: int) -> np.ndarray:
    """Turns of encoding and centroids from one start."""
    values = start(bits, factor, offset)
    rng = np.random.default_rng([SEED, bits, factor, offset])
    for turn in range(ROUNDS):
        values = centroids(values, bits, data(VECTORS["train"], bits, turn))
        if turn < NOISY:
            values += rng.standard_normal(len(values)) * (NOISE[bits] * (1 - turn / NOISY))
    return values


def best(bits: int) -> tuple[np.ndarray, dict[str, object]]:
    """The best table over all starts, and how it came about."""
    size = 2 ** WINDOWS[bits]
    judge, polish = data(VECTORS["judge"], bits, 1000), data(VECTORS["polish"], bits, 2000)
    quick = data(4 * VECTORS["train"], bits, 3000)
    found = []
    for factor in range(1, size, 2):
        for offset in (0, size // 4):
            values = trained(bits, factor, offset)
            found.append((error(values, bits, quick), factor, offset, values))
    found.sort(key=lambda entry: entry[:3])
    final = []
    for _, factor, offset, values in found[:FINALISTS]:
        for _ in range(POLISH):
            values = centroids(values, bits, polish)
        final.append((error(values, bits, judge), factor, offset, values))
        print(f"{bits} bits, start {factor}, {offset}: {final[-1][0]:.5f}")
    distortion, factor, offset, values = min(final, key=lambda entry: entry[:3])
    return values, {
        "made_by": "python codebooks/trellis.py",
        "seed": SEED,
        "start": [factor, offset],
        "distortion": round(distortion, 5),
    }


def main() -> int:
    """Write what is missing, check what is there."""
    clash = 0
    for bits in map(int, sys.argv[1:] or WINDOWS):
        values, provenance = best(bits)
        entries = np.clip(np.rint(values / TRELLIS_UNIT), -127, 127).astype(int)
        rounded = entries * float(TRELLIS_UNIT)
        name = f"trellis-{bits}bit"
        table = TrellisTable(name, bits, WINDOWS[bits], tuple(map(float, rounded)), provenance)
        path, text = HERE / f"{name}.json", table.dumps()
        if path.exists() and path.read_text(encoding="utf-8") != text:
            print(f"{path}: exists and differs; left as it is", file=sys.stderr)
            clash = 1
        elif not path.exists():
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}")
    return clash


if __name__ == "__main__":
    sys.exit(main())
