"""Write a synthetic float16 dump of any size, one layer at a time.

Usage: ``python benchmarks/synthetic.py OUT.safetensors --gib 2``. Gaussian values: for measuring
speed and memory, not quality. 8 KV heads of 128, like an 8B model.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import dump_record

HEADS, HEAD_DIM, LAYERS = 8, 128, 32
SEED = 20_261_122  # no rotation uses it


def write_dump(path: str, size: int, layers: int = LAYERS) -> None:
    """Write a dump of about `size` bytes."""
    seq_len = max(size // (2 * layers * HEADS * HEAD_DIM * 2), 1)
    shape = (1, HEADS, seq_len, HEAD_DIM)
    names = [f"layers.{layer}.{side}" for layer in range(layers) for side in "kv"]
    specs = [(name, np.dtype(np.float16), shape) for name in names]
    random = np.random.default_rng(SEED)
    # One head's values serve all tensors, shifted: drawing them all would take longest.
    base = random.standard_normal((seq_len + len(names) * HEADS, HEAD_DIM), np.float32)
    base = base.astype(np.float16)

    def heads(index: int) -> Iterator[np.ndarray]:
        for head in range(HEADS):
            start = index * HEADS + head
            yield base[start : start + seq_len]

    record = dump_record({"kind": "synthetic", "seed": SEED}, "original", "benchmark")
    with ContainerWriter(path, specs, record, force=True) as writer:
        for index, name in enumerate(names):
            writer.write(name, heads(index))


def write_queries(
    path: str,
    layers: int = 28,
    tokens: int = 1231,
    heads: int = 2,
    query_heads: int = 12,
    head_dim: int = 128,
) -> None:
    """Write a dump with queries; the shape is that of Qwen2.5-1.5B unless another is given."""
    shapes = dict.fromkeys("kv", (1, heads, tokens, head_dim))
    shapes["q"] = (1, query_heads, tokens, head_dim)
    names = [f"layers.{layer}.{side}" for layer in range(layers) for side in shapes]
    specs = [(name, np.dtype(np.float16), shapes[name[-1]]) for name in names]
    random = np.random.default_rng(SEED)
    record = dump_record({"kind": "synthetic", "seed": SEED}, "original", "benchmark")
    with ContainerWriter(path, specs, record, force=True) as writer:
        for name, dtype, shape in specs:
            writer.write(name, [random.standard_normal(shape, np.float32).astype(dtype)])


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--gib", type=float, default=2.0)
    options = parser.parse_args()
    write_dump(options.path, int(options.gib * (1 << 30)))


if __name__ == "__main__":
    main()
