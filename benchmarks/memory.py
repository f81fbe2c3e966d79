"""Peak memory of ``tq quantize`` on a dump of any size; exit 1 above a limit.

    python benchmarks/memory.py                         # 2 GiB, at most 200 MiB
    python benchmarks/memory.py --gib 0.25 --layers 1 --limit 150

The dump is sparse zeros, so that it costs no disk: what a piece holds does not change what it
weighs. The peak is that of the command's own process, as the kernel counted it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEADS, HEAD_DIM = 8, 128
HALF = 2  # bytes of a float16
ALIGNMENT = 64
# ru_maxrss is in KiB on Linux and in bytes on macOS.
UNIT = 1 if sys.platform == "darwin" else 1024
MIB = 1 << 20


def write_sparse_dump(path: Path, size: int, layers: int) -> None:
    """Write a float16 dump of about `size` bytes that is all holes."""
    seq_len = max(size // (2 * layers * HEADS * HEAD_DIM * HALF), 1)
    shape = [1, HEADS, seq_len, HEAD_DIM]
    nbytes = HEADS * seq_len * HEAD_DIM * HALF
    header = {}
    for index, name in enumerate(f"layers.{i}.{side}" for i in range(layers) for side in "kv"):
        offsets = [index * nbytes, (index + 1) * nbytes]
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + 2 * layers * nbytes)


def peak_of(command: list[str]) -> int:
    """Run a command and return the largest peak of any child so far, in bytes."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * UNIT


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2.0, help="size of the dump")
    parser.add_argument("--layers", type=int, default=32, help="layers it is cut into")
    parser.add_argument("--limit", type=float, default=200.0, help="MiB that are allowed")
    parser.add_argument("--type", default="turbo3", help="cache type of K and V")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dump, packed = (Path(folder) / f"{name}.safetensors" for name in ("dump", "packed"))
        write_sparse_dump(dump, int(options.gib * 1024 * MIB), options.layers)
        command = [sys.executable, "-P", "-m", "tqcli", "quantize", str(dump), "-o", str(packed)]
        start = time.monotonic()
        peak = peak_of([*command, "-ctk", options.type, "-ctv", options.type]) / MIB
        seconds = time.monotonic() - start
    print(
        f"{options.gib:g} GiB to {options.type}: peak {peak:.0f} MiB of at most "
        f"{options.limit:g} MiB, {seconds:.1f} s"
    )
    return int(peak > options.limit)


if __name__ == "__main__":
    sys.exit(main())
