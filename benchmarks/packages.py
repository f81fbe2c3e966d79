"""Encode and decode speed beside what else a person could run from Python.

``python benchmarks/packages.py`` with tq installed; ``pip install turbovec`` (and
``aither-kvcache`` with torch) adds those. Single thread, 128 values a vector, medians of repeats
that take turns in one process; the ratio is to a memcpy of the same float32 array.

None of the others writes turbo3 blocks: the rows say what a format costs in time, not that they
are interchangeable.
"""

from __future__ import annotations

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from tqcli import codec, kernels

VECTORS, DIM, SEED, REPEATS = 131_072, 128, 20_261_123, 7
Job = Callable[[], object]


def jobs(x: np.ndarray) -> dict[tuple[str, str], Job]:
    """What to time, by (package, operation)."""
    copy = np.empty_like(x)
    found: dict[tuple[str, str], Job] = {("memcpy", ""): lambda: np.copyto(copy, x)}
    turbo3 = codec("turbo3")
    blocks = turbo3.encode(x)

    def with_kernel(name: str, job: Job) -> Job:
        def run() -> object:
            with kernels.use(name):
                return job()

        return run

    for name in kernels.available():
        found[f"tq turbo3 ({name})", "encode"] = with_kernel(name, lambda: turbo3.encode(x))
        found[f"tq turbo3 ({name})", "decode"] = with_kernel(name, lambda: turbo3.decode(blocks))
    for name in ("q8_0", "q4_0"):
        ggml = codec(name)
        stored = ggml.encode(x)
        label = f"gguf {version('gguf')} {name}"
        found[label, "encode"] = lambda c=ggml: c.encode(x)
        found[label, "decode"] = lambda c=ggml, b=stored: c.decode(b)
    found |= _turbovec(x) | _aither(x)
    return found


def _turbovec(x: np.ndarray) -> dict[tuple[str, str], Job]:
    try:
        from turbovec import TurboQuantIndex
    except ImportError:
        return {}
    # A vector index: it encodes when vectors are added, and has no decoder.
    return {
        (f"turbovec {version('turbovec')} 3-bit", "encode"): lambda: TurboQuantIndex(DIM, 3).add(x)
    }


def _aither(x: np.ndarray) -> dict[tuple[str, str], Job]:
    try:
        import torch
        from turboquant import TurboQuant

        label = f"aither-kvcache {version('aither-kvcache')} 3-bit"
    except ImportError:
        return {}
    torch.set_num_threads(1)
    quantizer, tensor = TurboQuant(head_dim=DIM, bits=3, device="cpu"), torch.from_numpy(x)
    packed, norms = quantizer.encode(tensor)
    return {
        (label, "encode"): lambda: quantizer.encode(tensor),
        (label, "decode"): lambda: quantizer.decode(packed, norms),
    }


def main() -> None:
    """Time all jobs in turns and print a table."""
    kernels.set_threads(1)
    x = np.random.default_rng(SEED).standard_normal((VECTORS, DIM), np.float32)
    found = jobs(x)
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in found}
    for _ in range(REPEATS):
        for key, job in found.items():
            start = time.perf_counter()
            job()
            seconds[key].append(time.perf_counter() - start)
    medians = {key: statistics.median(times) for key, times in seconds.items()}
    base = medians["memcpy", ""]
    print(f"| {'package':32} | {'operation':9} | x memcpy | M values/s |")
    print("| --- | --- | ---: | ---: |")
    for (name, operation), median in medians.items():
        rate = x.size / median / 1e6
        print(f"| {name:32} | {operation:9} | {base / median:8.3f} | {rate:10.0f} |")


if __name__ == "__main__":
    main()
