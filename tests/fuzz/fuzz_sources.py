"""Mutation fuzzing of everything that reads files of others: one typed error, or a reading.

    python tests/fuzz/fuzz_sources.py --minutes 10 --seed 7

A *target* is a set of good files and a function that reads one in full. Each round bends a good
file (bits, extreme numbers, cuts, repeated pieces) and reads it. A reading or a ``TqError`` of one
line is fine. Anything else is a finding: another exception, a warning, a refusal that allocated
more than twice the file, a read of many seconds. The file is kept and the exit code is 1. The same
seed gives the same files.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from tqcli.codecs import codec
from tqcli.errors import TqError
from tqcli.pipeline.restore import restore
from tqcli.sources.llamacpp.accept import checks
from tqcli.sources.llamacpp.gguf_header import read_header
from tqcli.sources.llamacpp.parse import read_layout
from tqcli.sources.llamacpp.source import LlamaCppSource
from tqcli.sources.llamacpp.wish import Wish

FIXTURES = Path(__file__).parents[2] / "fixtures"
CONSTANT = 1 << 21  # objects that do not grow with the file
MAX_SECONDS = 5.0
EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 1 << 20, 2**31 - 1, 2**31, 2**32 - 1)
EXTREMES_64 = (*EXTREMES, 1 << 33, 1 << 60, 2**63 - 1, 2**63, 2**64 - 1)


@dataclass(frozen=True)
class Target:
    """Good files and how to read one.

    ``headers`` says which bytes of a seed deserve most of the mutations.
    """

    name: str
    seeds: list[bytes]
    read: Callable[[Path], None]
    headers: Callable[[bytes], list[int]]


def mutate(data: bytes, hot: list[int], rng: random.Random) -> bytes:
    """Bend a file in one to four ways."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        if not out:
            break
        at = rng.choice(hot) if hot and rng.random() < 0.8 else rng.randrange(len(out))
        at = min(at, len(out) - 1)
        match rng.randrange(8):
            case 0 | 1:
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                out[at : at + 4] = rng.choice(EXTREMES).to_bytes(4, "little")
            case 3:
                out[at : at + 8] = rng.choice(EXTREMES_64).to_bytes(8, "little")
            case 4:
                near = int.from_bytes(out[at : at + 4], "little") + rng.choice((-2, -1, 1, 2, 16))
                out[at : at + 4] = (near % 2**32).to_bytes(4, "little")
            case 5:
                end = len(out) if rng.random() < 0.5 else at + rng.randrange(1, 64)
                del out[at:end]
            case 6:
                start = rng.randrange(len(out))
                out[at:at] = out[start : start + rng.randrange(1, 256)]
            case 7:
                out += rng.randbytes(rng.randrange(1, 32))
    return bytes(out)


def finding(target: Target, path: Path, size: int) -> str | None:
    """Read a bent file; what is wrong with how that went, or None."""
    tracemalloc.start()
    started = time.monotonic()
    refused = False
    try:
        target.read(path)
    except TqError as error:
        refused = True
        if "\n" in str(error):
            return f"message of several lines: {error!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    seconds = time.monotonic() - started
    if refused and peak > 2 * size + CONSTANT:
        return f"a refusal allocated {peak} bytes for a file of {size}"
    return f"took {seconds:.1f} s" if seconds > MAX_SECONDS else None


# -- llama.cpp save files -----------------------------------------------------------------------


def _savefile_module() -> object:
    spec = importlib.util.spec_from_file_location(
        "llamacpp_savefile", FIXTURES / "llamacpp" / "savefile.py"
    )
    if spec is None or spec.loader is None:
        raise SystemExit("fixtures/llamacpp/savefile.py is missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def built_save_files() -> list[bytes]:
    """Small files of every version, with several streams, M-RoPE, turbo rows and packed tokens."""
    make = _savefile_module()
    values = np.random.default_rng(5).standard_normal((4, 2, 64)).astype(np.float32)
    plain = make.float_side(values.reshape(4, -1), 0)
    turned = make.float_side(values.reshape(4, -1), 0, transposed=True)
    turbo = make.Side(201, codec("turbo3").encode(values).reshape(4, -1))
    cells = [(0, [0]), (1, [0, 1]), (3, []), (2, [1])]
    out = []
    for kind, first in (("session", 9), ("sequence", 2)):
        for version in range(first, first + 3):
            for extra, v in ((0, plain), (0, turned), (12, plain), (0, turbo)):
                k = turbo if v is turbo else plain
                stream = make.Stream(cells, [k, k], [v, v])
                words = [-1, 1, 3, 7, 8, 9, 0] if kind == "sequence" else [7, 8, 9]
                file = make.SaveFile(
                    kind, version, words, [stream, stream], "qwen2", (64, 64), extra
                )
                for number, each in enumerate(file.streams[1:], 1):
                    file.streams[number] = make.Stream(
                        [(p, [o + 2 for o in owners]) for p, owners in each.cells], each.k, each.v
                    )
                out.append(file.to_bytes())
    return out


def read_save_file(path: Path) -> None:
    """Describe, decode and unpack, as far as the file lets us."""
    LlamaCppSource(path).describe()
    source = LlamaCppSource(path, head_dim=64, heads=3 if path.stat().st_size > 20000 else 2)
    source.describe()
    for _ in source.tensors():
        pass
    forked = LlamaCppSource(path, head_dim=64, heads=2, fork="thetom", rotation="none")
    for _ in forked.packed():
        pass


def write_save_file(path: Path) -> None:
    """Convert the file, and hold it against itself and a good one as a probe.

    Whatever is written must be read again; a refusal must leave nothing.
    """
    out = path.with_suffix(".out")
    good = LlamaCppSource(FIXTURES / "llamacpp" / "q8_0-flash-seq.bin", heads=3, head_dim=64)
    bent = LlamaCppSource(path, heads=3 if path.stat().st_size > 20000 else 2, head_dim=64)
    kinds = {"type_k": "q8_0", "type_v": "f16", "engine_version": "4", "flash_attention": True}
    refused: TqError | None = None
    for source, options in ((bent, {}), (bent, kinds), (good, {"like": read_layout(path)})):
        try:
            restore(source, path, out, Wish(**options, rotation="default"), force=True)
            save = read_layout(out)
            for each in (save, read_layout(path)):
                void(list(checks(each, save, n_ctx=4, n_vocab=100)))
            out.unlink()
        except TqError as error:
            refused = error
        left = [p.name for p in path.parent.iterdir() if p != path]
        if left:
            raise AssertionError(f"{left} was left behind")
    if refused is not None:
        raise refused


def save_file_headers(data: bytes) -> list[int]:
    """Bytes up to the first rows and the twelve before each later layer, found by their period."""
    first = list(range(min(200, len(data))))
    step = data.find(data[100:112], 112) if len(data) > 400 else -1
    return first if step < 0 else first + [step + i for i in range(12)]


# -- GGUF headers -------------------------------------------------------------------------------


def built_ggufs() -> list[bytes]:
    """Two small models: one number for all layers, and a list of them."""
    out = []
    for heads in (3, [3, 0]):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.gguf"
            writer = gguf.GGUFWriter(path, "llama")
            writer.add_block_count(2)
            writer.add_embedding_length(576)
            writer.add_head_count(9)
            writer.add_head_count_kv(heads)
            writer.add_rope_freq_base(10000.0)
            writer.add_token_list(["a", "b"])
            writer.add_tensor("t", np.zeros(2, np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            out.append(path.read_bytes())
    return out


def all_bytes(data: bytes) -> list[int]:
    """Every byte is a header byte."""
    return list(range(len(data)))


def targets() -> list[Target]:
    """Everything that is fuzzed; a new reader adds a line."""
    headers = save_file_headers
    real = [path.read_bytes() for path in sorted((FIXTURES / "llamacpp").glob("*.bin"))]
    return [
        Target("llama.cpp, built", built_save_files(), read_save_file, headers),
        Target("llama.cpp, real", real, read_save_file, headers),
        Target("llama.cpp, written", built_save_files() + real[-2:], write_save_file, headers),
        Target("gguf", built_ggufs(), lambda path: void(read_header(path)), all_bytes),
    ]


def void(_: object) -> None:
    """Drop a result."""


def main() -> int:
    """Fuzz for a while."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keep", type=Path, default=Path(), help="folder for files that fail")
    options = parser.parse_args()

    warnings.simplefilter("error")
    rng = random.Random(options.seed)
    every = targets()
    end = time.monotonic() + 60 * options.minutes
    rounds = {target.name: 0 for target in every}
    findings = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bent.bin"
        for target in every:
            for data in target.seeds:
                path.write_bytes(data)
                finding(target, path, len(data))  # imports and caches
        while time.monotonic() < end and findings < 10:
            target = rng.choice(every)
            seed = rng.choice(target.seeds)
            data = mutate(seed, target.headers(seed), rng)
            path.write_bytes(data)
            rounds[target.name] += 1
            if (what := finding(target, path, len(data))) is not None:
                findings += 1
                kept = options.keep / f"finding-{options.seed}-{sum(rounds.values())}.bin"
                kept.write_bytes(data)
                print(f"{target.name}: {what} ({kept})", flush=True)
    counts = ", ".join(f"{name} {count}" for name, count in rounds.items())
    print(f"{sum(rounds.values())} files ({counts}), {findings} findings, seed {options.seed}")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
