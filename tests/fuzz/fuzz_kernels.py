"""Random vectors and random blocks through every compiled kernel, against the specification.

A long run, not a test: ``python tests/fuzz/fuzz_kernels.py --vectors 10000000 --seed 7``. Ends with
status 1 at the first byte that differs, and says how to get it again.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import ml_dtypes
import numpy as np

from tqcli import kernels
from tqcli.kernels import reference, stats
from tqcli.kernels.layout import TurboLayout

ROUND = 4096  # vectors at a time
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


def random_layout(rng: np.random.Generator) -> TurboLayout:
    """Any legal layout; every other one with a random, skewed table."""
    bits = int(rng.integers(2, 5))
    group = int(rng.choice([64, 128]))
    block = int(rng.choice([b for b in (32, 64, 128) if b <= group]))
    scale = 1 / np.sqrt(group)
    if rng.integers(2):
        half = np.sort(rng.uniform(0.05, 2.7, 2 ** (bits - 1)))
        table = np.concatenate([-half[::-1], half])
        inner = (half[1:] + half[:-1]) / 2
        midpoints = np.concatenate([-inner[::-1], [0], inner])
    else:
        table = np.sort(rng.uniform(-2.7, 2.7, 2**bits))
        midpoints = np.sort(rng.uniform(-2.5, 2.5, 2**bits - 1))
    return TurboLayout(
        bits,
        group,
        block,
        int(rng.choice([2, 4])),
        bool(rng.integers(2)),
        (table * scale).astype(np.float32),
        (midpoints * scale).astype(np.float32),
    )


def random_vectors(rng: np.random.Generator, n: int, group: int) -> Any:
    """Float32 vectors: Gaussian or coarse (many ties), of any magnitude, some bits at random."""
    kind = rng.integers(4)
    if kind == 0:
        x = rng.standard_normal((n, group), np.float32)
    elif kind == 1:
        x = rng.integers(-3, 4, (n, group)).astype(np.float32)
    elif kind == 2:
        x = rng.standard_normal((n, group), np.float32) * (rng.random((n, group)) < 0.03)
        x = x.astype(np.float32)
    else:
        return rng.integers(0, 1 << 32, (n, group), np.uint32).view(np.float32)
    sizes = np.exp2(rng.uniform(-150, 126, (n, 1))) if rng.integers(2) else np.ones((n, 1))
    with np.errstate(over="ignore"):
        x *= sizes.astype(np.float32)
    rare = rng.random(n) < 0.01
    x[rare, rng.integers(group)] = rng.choice([np.nan, np.inf, -np.inf, 1e30, -0.0], rare.sum())
    return x


def differ(left: Any, right: Any) -> Any:
    """Rows that differ in any bit; NaN equals NaN."""
    if left.dtype == np.uint8:
        return np.flatnonzero((left != right).any(axis=1))
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[left.dtype.itemsize]
    nan = np.isnan(left) & np.isnan(right)
    return np.flatnonzero(((left.view(bits) != right.view(bits)) & ~nan).any(axis=1))


def statistics(x: Any, decoded: Any) -> Any:
    """Rows of errors by the active kernel, and below them its sums over all vectors."""
    channels, moments = np.zeros((2, x.shape[1])), np.zeros(2)
    rows = stats.errors(x, decoded, channels)
    stats.moments(x, moments)
    totals = np.zeros(7)
    stats.summarize(rows, totals)
    return np.concatenate([rows.ravel(), channels.ravel(), moments, totals])[:, None]


def one_round(rng: np.random.Generator, names: list[str]) -> str | None:
    """Try one layout; a line about the first difference, or None."""
    layout, dtype = random_layout(rng), DTYPES[rng.integers(3)]
    n = ROUND - int(rng.integers(40))
    x = random_vectors(rng, n, layout.group)
    with np.errstate(all="ignore"):
        x = x.astype(dtype)
    blocks = reference.encode(x, layout)
    anything = blocks.copy()
    anything[::7] = rng.integers(0, 256, anything[::7].shape, np.uint8)
    rotated = bool(rng.integers(2))
    values = reference.decode(anything, layout, rotated=rotated, dtype=dtype)
    codes = reference.codes(anything, layout)
    dim = int(rng.integers(1, 300))
    heads = x.reshape(-1)[: x.size // dim * dim].reshape(-1, dim)
    with np.errstate(all="ignore"):
        others = values.reshape(-1)[: heads.size].reshape(heads.shape).astype(np.float32)
    with kernels.use("numpy"):
        figures = statistics(heads, others)
    for name in names:
        with kernels.use(name):
            found = {
                "encode": differ(kernels.encode(x, layout), blocks),
                "decode": differ(
                    kernels.decode(anything, layout, rotated=rotated, dtype=dtype), values
                ),
                "codes": differ(kernels.codes(anything, layout), codes),
                "statistics": differ(statistics(heads, others), figures),
            }
        for operation, rows in found.items():
            if len(rows):
                kind = np.dtype(dtype).name
                return f"{name} {operation} {kind} {layout}: {len(rows)} rows, first {rows[0]}"
    return None


def main() -> int:
    """Run until enough vectors went through every kernel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=1_000_000, help="for each kernel")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    names = [name for name in kernels.available() if name != reference.NAME]
    if not names:
        print("no compiled kernel to try", file=sys.stderr)
        return 1
    rounds = -(-options.vectors // (ROUND - 40))
    began = time.perf_counter()
    for number in range(rounds):
        complaint = one_round(np.random.default_rng((options.seed, number)), names)
        if complaint:
            print(f"seed {options.seed} round {number}: {complaint}", file=sys.stderr)
            return 1
    seconds = time.perf_counter() - began
    done = f"{rounds} rounds, at least {rounds * (ROUND - 40):,} vectors each through"
    print(f"{done} {', '.join(names)}: no difference ({seconds:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
