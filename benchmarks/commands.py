"""What the commands cost beside ``cp``: seconds, ratios, and where the time goes.

    python benchmarks/commands.py                    # 1 GiB of float16, 5 rounds
    python benchmarks/commands.py --gib 0.25 --rounds 3 --folder /dev/shm

A synthetic dump lies in the page cache. Every round runs cp and each command once, one after the
other, so that a slow moment of the machine meets all of them; outputs are new files, removed
between the runs. The medians are printed, and their ratio to the median of ``cp SRC DST``, which
does not wait for the disk; the commands do (fsync), so ``cp`` with a sync stands beside it.

``tq compare`` is held against ``tq evaluate`` of one type, on a dump with queries of 28 layers and
1,231 tokens (2 KV heads, 12 query heads of 128).

Below that, seconds on one core for each kind of work, measured by itself: start-up of the command,
reading, hashing, the codec, writing, syncing. Their sum over the number of cores bounds a command
from below.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from synthetic import write_dump, write_queries

from tqcli import CacheType, codec, kernels, open_dump, open_packed
from tqcli.kv.checksum import Digest
from tqcli.kv.container import PIECE_BYTES
from tqcli.kv.positional import read_at, write_at
from tqcli.pipeline.quantize import quantize

TYPE = "turbo3"
COMPARED = ("turbo3", "turbo2", "turbo4", "q4_0", "q4_0+rot", "q8_0", "f16")
WARM_BYTES = 3 << 29  # more than a run of 1 GiB takes of the page cache
# The largest ratios that the project promises on two cores.
LIMITS = {"quantize": 2.0, "unpack": 3.0, "evaluate": 4.0, "compare": 4.0}


def tq(*arguments: object) -> list[str]:
    """A command line of the installed package."""
    return [sys.executable, "-P", "-m", "tqcli", *map(str, arguments)]


def seconds(command: list[str], output: Path | None = None, *, sync: bool = False) -> float:
    """Wall time of a command that writes a new file."""
    if output is not None:
        output.unlink(missing_ok=True)
    warm_memory(output)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if sync and output is not None:
        with output.open("rb+") as file:
            os.fsync(file.fileno())
    took = time.perf_counter() - start
    if output is not None:
        output.unlink()
    return took


def warm_memory(output: Path | None) -> None:
    """Leave nothing for the disk to do, and as many pages of free memory at hand as a run needs.

    A virtual machine gives free memory back to its host after a while; to get it again costs
    several times what cp does.
    """
    os.sync()
    if output is not None:
        with output.open("xb", buffering=0) as file:
            for _ in range(WARM_BYTES // PIECE_BYTES):
                file.write(bytes(PIECE_BYTES))
        output.unlink()


def measure(jobs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Every job once in every round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            took = job()
            if number:
                times[name].append(took)
    return times


def show(times: dict[str, list[float]], base: str) -> None:
    """Medians, ranges, ratios to the median of `base`, limits."""
    print(f"{'':12}{'median s':>10}{'range':>16}{'x ' + base:>14}{'at most':>9}")
    unit = statistics.median(times[base])
    for name, took in times.items():
        median = statistics.median(took)
        span = f"{min(took):.2f} - {max(took):.2f}"
        limit = f"{LIMITS[name]:g}" if name in LIMITS else ""
        print(f"{name:12}{median:10.3f}{span:>16}{median / unit:14.2f}{limit:>9}")
    print()


def once(work: Callable[[], object], repeat: int = 1) -> float:
    """Seconds of one call; the best of three times `repeat` calls."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeat):
            work()
        best = min(best, time.perf_counter() - start)
    return best / repeat


def read_all(path: Path) -> None:
    """Read a file piece by piece into one buffer."""
    view = memoryview(bytearray(PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        offset = 0
        while got := read_at(file, view, offset):
            offset += got


def write_all(path: Path, size: int) -> tuple[float, float]:
    """Seconds to write a new file of `size` bytes, and to sync it."""
    view = memoryview(bytes(PIECE_BYTES))
    with path.open("xb", buffering=0) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        start = time.perf_counter()
        for offset in range(0, size, PIECE_BYTES):
            write_at(file, view[: size - offset], offset)
        middle = time.perf_counter()
        os.fsync(file.fileno())
        end = time.perf_counter()
    path.unlink()
    return middle - start, end - middle


def split(folder: Path, dump: Path, packed: Path) -> None:
    """Seconds of one core for each kind of work of each command."""
    kernels.set_threads(1)
    big, small = dump.stat().st_size, packed.stat().st_size
    made = codec(TYPE)
    x = np.random.default_rng(7).standard_normal((PIECE_BYTES // 256, 128)).astype(np.float16)
    blocks, raw = made.encode(x), x.reshape(-1).view(np.uint8)
    pieces = big / x.nbytes
    tiny, tiny_packed = folder / "tiny.safetensors", folder / "tiny-packed.safetensors"
    write_dump(str(tiny), 1 << 16, layers=1)
    with open_dump(tiny) as opened:
        quantize(opened, tiny_packed, CacheType(TYPE), CacheType(TYPE))
    starts = {
        "quantize": tq("quantize", tiny, "-o", folder / "o.safetensors", "-q", "--force"),
        "unpack": tq("unpack", tiny_packed, "-o", folder / "o.safetensors", "-q", "--force"),
        "evaluate": tq("evaluate", tiny, tiny_packed, "-q"),
    }
    hashed = (big + small) / x.nbytes * once(lambda: Digest().update(raw), 64)
    read = {"dump": once(lambda: read_all(dump)), "packed": once(lambda: read_all(packed))}
    encode = pieces * once(lambda: made.encode(x), 64)
    decode16 = pieces * once(lambda: made.decode(blocks, dtype=np.float16), 64)
    decode32 = pieces * once(lambda: made.decode(blocks), 64)
    new = folder / "new"
    wrote = {name: write_all(new, size) for name, size in (("dump", big), ("packed", small))}
    rows = {
        "quantize": (read["dump"], hashed, encode, *wrote["packed"]),
        "unpack": (read["packed"], hashed, decode16, *wrote["dump"]),
        "evaluate": (sum(read.values()), hashed, decode32, 0.0, 0.0),
    }
    print(f"{'one core, s':12}" + "".join(
        f"{name:>10}" for name in ("start-up", "read", "hash", "codec", "write", "sync")
    ))  # fmt: skip
    for name, parts in rows.items():
        start = statistics.median(seconds(starts[name]) for _ in range(5))
        print(f"{name:12}" + "".join(f"{part:10.3f}" for part in (start, *parts)))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=1.0, help="size of the dump")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files lie; default: TMPDIR")
    parser.add_argument("--only", nargs="+", choices=LIMITS, default=list(LIMITS))
    options = parser.parse_args()
    threads, name = kernels.choose.threads(), kernels.active()
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made)
        dump, packed, out = (folder / f"{n}.safetensors" for n in ("dump", "packed", "out"))
        write_dump(str(dump), int(options.gib * (1 << 30)))
        with open_dump(dump) as opened:
            quantize(opened, packed, CacheType(TYPE), CacheType(TYPE))
        with open_packed(packed) as cache, open_dump(dump) as opened:
            assert cache.made_from(opened)
        print(f"{options.gib:g} GiB float16, {TYPE}, kernel {name}, {threads} threads\n")
        copy = ["cp", str(dump), str(out)]
        every: dict[str, Callable[[], float]] = {
            "cp": lambda: seconds(copy, out),
            "cp, synced": lambda: seconds(copy, out, sync=True),
            "quantize": lambda: seconds(tq("quantize", dump, "-o", out, "-q"), out),
            "unpack": lambda: seconds(tq("unpack", packed, "-o", out, "-q"), out),
            "evaluate": lambda: seconds(tq("evaluate", dump, packed, "-q")),
        }
        chosen = {n: j for n, j in every.items() if n.startswith("cp") or n in options.only}
        if len(chosen) > 2:
            show(measure(chosen, options.rounds), "cp")
        if "compare" in options.only:
            queries = folder / "queries.safetensors"
            write_queries(str(queries))
            types = [part for name in COMPARED for part in ("-t", name)]
            pair = {
                "evaluate one": lambda: seconds(tq("evaluate", queries, "-ctk", TYPE, "-q")),
                "compare": lambda: seconds(tq("compare", queries, *types, "-q")),
            }
            show(measure(pair, options.rounds), "evaluate one")
        if len(chosen) > 2:
            split(folder, dump, packed)


if __name__ == "__main__":
    main()
