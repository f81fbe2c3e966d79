"""Time and peak memory of the attention measures, on a synthetic dump of a small model's shape.

Usage: ``python benchmarks/attention.py [--layers 30] [--tokens 2048] [--type turbo3]``. Gaussian
values of 9 query heads and 3 KV heads of 64, like SmolLM2-135M: for measuring speed and memory,
not quality. Prints seconds, CPU seconds and the largest resident size of the whole process.
"""

import argparse
import os

# The measures bring threads of their own; BLAS threads on top of them only fight for the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import dump_record, open_dump
from tqcli.pipeline.attention import AttentionOptions, evaluate_attention
from tqcli.pipeline.candidate import plan_candidates
from tqcli.plan.grammar import parse_plan

QUERY_HEADS, KV_HEADS, HEAD_DIM = 9, 3, 64
SEED = 20_261_123  # no rotation uses it


def write_dump(path: Path, layers: int, tokens: int) -> None:
    """Write K, V and Q of `layers` layers, float16."""
    random = np.random.default_rng(SEED)
    heads = {"k": KV_HEADS, "v": KV_HEADS, "q": QUERY_HEADS}
    names = [f"layers.{layer}.{side}" for layer in range(layers) for side in heads]
    shapes = [(1, heads[name[-1]], tokens, HEAD_DIM) for name in names]
    specs = [(n, np.dtype(np.float16), s) for n, s in zip(names, shapes, strict=True)]
    with ContainerWriter(path, specs, dump_record({}, "original", "benchmark")) as writer:
        for name, _, shape in specs:
            writer.write(name, [random.standard_normal(shape, np.float32).astype(np.float16)])


def main() -> None:
    """Measure once with every query, and once with what a run takes by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--type", default="turbo3")
    options = parser.parse_args()
    chosen = parse_plan(options.type)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.safetensors"
        write_dump(path, options.layers, options.tokens)
        for words, positions in (("all queries", 0), ("by default", None)):
            with open_dump(path) as dump:
                wall, cpu = time.perf_counter(), time.process_time()
                result = evaluate_attention(
                    dump, plan_candidates(dump, [chosen])[0], AttentionOptions(positions)
                )
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            measured = sum(one.measured for one in result.layers.values())
            print(f"{words}: {measured} positions, {wall:.1f} s, {cpu:.1f} s of CPU")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print(f"peak memory: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
