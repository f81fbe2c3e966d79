"""Mutation fuzzing of dumps, packed caches, codebooks and reports: one typed error, or a reading.

    python tests/fuzz/fuzz_containers.py --minutes 10 --seed 7

Beside bytes (see ``fuzz_sources``), values of the JSON in these files are bent: the header, the
metadata record within it, whole documents. Half of the bent containers get hashes that fit, so
that damaged data reach the decoders. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

sys.path.append(str(Path(__file__).parents[1] / "hostile"))
from containers import sealed
from fuzz_sources import Target, finding, mutate

import tqcli
from tqcli.codebook import dumps
from tqcli.kv.dump import open_dump
from tqcli.kv.packed import open_packed
from tqcli.pipeline.compare import compare
from tqcli.pipeline.evaluate import Candidate, evaluate
from tqcli.pipeline.fit import FitOptions, fit_codebook
from tqcli.pipeline.inspect import inspect_path
from tqcli.pipeline.unpack import decoded
from tqcli.report.gate import apply_gates, parse_gate
from tqcli.report.render import FORMATS, render
from tqcli.report.result import Report
from tqcli.report.saved import read_reports
from tqcli.report.views import COMPARE, EVALUATE, explain, explain_comparison

TURBO3 = tqcli.CacheType("turbo3")
STRANGE: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 127, 128, 2**31, 2**33, 2**60, 2**64, 10**400, 0.5, -0.0,
    1e300, float("nan"), float("inf"), "", "k", "\0", "\x1b[m", "\ud800", "../x", "a" * 64,
    "turbo3", "q4_0+rot", "f16", "F16", "BF16", [], {}, [[]], [0], [1, 1, 1, 1], {"id": "turbo2"},
]  # fmt: skip


# -- bending ------------------------------------------------------------------------------------


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from nodes(value[key])


def bend_json(document: Any, rng: random.Random) -> Any:
    """Change, remove, rename or copy one to three nodes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        every = list(nodes(document))
        if not every:
            return rng.choice(STRANGE)
        parent, key = rng.choice(every)
        match rng.randrange(6):
            case 0 | 1:
                parent[key] = rng.choice(STRANGE)
            case 2:
                del parent[key]
            case 3 if isinstance(parent[key], int | float):
                parent[key] += rng.choice((-1, 1, 2, 64, 0.5, -(2**40)))
            case 4 if isinstance(parent, dict):
                parent[rng.choice(("layers.1.k", "layers.0.q", "x", "token_ids"))] = parent[key]
            case _:
                other, place = rng.choice(every)
                if isinstance(other, dict) or place < len(other):
                    copied = json.dumps(parent[key])  # a copy: no cycles
                    other[place] = json.loads(copied)
    return document


def bend_container(data: bytes, hot: list[int], rng: random.Random) -> bytes:
    """Bend the header, the record or the data of a safetensors file."""
    end = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:end]), data[end:]
    choice = rng.randrange(4)
    if choice == 0:
        return mutate(data, hot, rng)
    if choice == 1:
        header = bend_json(header, rng)
    elif choice == 2 and "__metadata__" in header:
        record = bend_json(json.loads(header["__metadata__"]["tq"]), rng)
        header["__metadata__"]["tq"] = json.dumps(record)
    else:
        body = mutate(body, [], rng)[: len(body)].ljust(len(body), b"\0")
    if rng.random() < 0.5:
        mend_hashes(header, body)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def mend_hashes(header: Any, body: bytes) -> None:
    """Make the promised hashes true, where header and record are still what they should be."""
    try:
        record = json.loads(header["__metadata__"]["tq"])
        for name, tensor in record["tensors"].items():
            start, end = header[name]["data_offsets"]
            tensor["digest"] = f"blake3:{blake3(body[start:end]).hexdigest()}"
        header["__metadata__"]["tq"] = sealed(header, record)
    except (TypeError, KeyError, ValueError, AttributeError, MemoryError):
        return


def bend_text(data: bytes, hot: list[int], rng: random.Random) -> bytes:
    """Bend a JSON document, as text or as a document."""
    if rng.random() < 0.4:
        return mutate(data, hot, rng)
    return json.dumps(bend_json(json.loads(data), rng)).encode()


# -- seeds and readers --------------------------------------------------------------------------


def containers() -> tuple[list[bytes], list[bytes], list[bytes], list[bytes]]:
    """Small dumps, packed caches, codebooks and reports."""
    x = np.random.default_rng(5).standard_normal((1, 2, 6, 64)).astype(np.float16)
    header = {}
    for i, name in enumerate(("layers.0.k", "layers.0.v", "layers.2.k")):
        header[name] = {"dtype": "F16", "shape": x.shape,
                        "data_offsets": [i * x.nbytes, (i + 1) * x.nbytes]}  # fmt: skip
    text = json.dumps(header).encode()
    plain = len(text).to_bytes(8, "little") + text + x.tobytes() * 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, target = folder / "d.safetensors", folder / "p.safetensors"
        source.write_bytes(plain)
        packed = []
        with open_dump(source) as dump:
            book, _ = fit_codebook([dump], FitOptions(bits=2, per="head", group=64), "own")
            types = [tqcli.CacheType(t) for t in ("turbo3", "turbo3-b32", "turbo4-qjl", "q4_1",
                                                  "q8_0+rot", "f16")]  # fmt: skip
            for kind in (*types, tqcli.CacheType("turbo2-g64", book)):
                tqcli.quantize(dump, target, kind, kind, force=True)
                packed.append(target.read_bytes())
            rows = compare(dump, [(TURBO3, TURBO3)])
            inputs = [{"path": "d", "fingerprint": dump.fingerprint()}]
        with open_packed(target) as cache:
            tqcli.unpack(cache, folder / "b.safetensors")
        full = (folder / "b.safetensors").read_bytes()
    report = render(Report("tq.compare/1", "", COMPARE, rows, inputs=inputs), "json")
    return [plain, full], packed, [dumps(book).encode()], [report.encode()]


def read_dump(path: Path) -> None:
    """Everything that commands do with a dump."""
    show(inspect_path(path, verify=True).rows, inspect_path(path).notes)
    with open_dump(path) as dump:
        dump.token_ids()
        rows = evaluate(dump, Candidate(TURBO3, TURBO3), per_head=True).rows()
        render(Report("", "", EVALUATE, rows, explain(rows)), "json")
        fit_codebook([dump], FitOptions(bits=1), "x")
        target = path.with_name("out.safetensors")
        tqcli.quantize(dump, target, TURBO3, TURBO3, force=True)
    with open_packed(target) as packed:
        for tensor in packed.tensors:
            for _ in decoded(packed, tensor):
                pass


def read_packed(path: Path) -> None:
    """Everything that commands do with a packed cache."""
    show(inspect_path(path, verify=True).rows, inspect_path(path).notes)
    with open_packed(path) as packed:
        target = path.with_name("out.safetensors")
        tqcli.unpack(packed, target, dtype="float32", force=True)
    with open_dump(target) as dump, open_packed(path) as packed:
        rows = evaluate(dump, Candidate(packed=packed)).rows()
        render(Report("", "", EVALUATE, rows, explain(rows)), "json")


def read_book(path: Path) -> None:
    """Everything that commands do with a codebook."""
    found = inspect_path(path)
    show(found.rows, found.notes)
    book = tqcli.codebook.read_codebook(path)
    dumps(book)
    kind = tqcli.CacheType("turbo2-g64", book)
    codec = tqcli.codec(kind.name, codebook=book.find(0, "k", 0))
    codec.decode(codec.encode(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64)))


def read_report(path: Path) -> None:
    """Everything that compare does with a saved report."""
    rows, inputs = read_reports([path])
    report = Report("tq.compare/1", "", COMPARE, rows, explain_comparison(rows), inputs)
    for form in FORMATS:
        render(report, form)
    apply_gates([parse_gate("k.nmse>1e300")], rows)


def show(rows: list[dict[str, Any]], notes: list[str]) -> None:
    """What goes to a terminal must be text."""
    "\n".join([str(rows), *notes]).encode()


def header_bytes(data: bytes) -> list[int]:
    """Length and header of a safetensors file."""
    return list(range(8 + int.from_bytes(data[:8], "little")))


def all_bytes(data: bytes) -> list[int]:
    """Every byte of a text."""
    return list(range(len(data)))


def main() -> int:
    """Fuzz for a while."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keep", type=Path, default=Path(), help="folder for files that fail")
    options = parser.parse_args()

    warnings.simplefilter("error")  # a warning would be a second line on stderr
    rng = random.Random(options.seed)
    dump_files, packed_files, books, reports = containers()
    every = [
        (Target("dump", dump_files, read_dump, header_bytes), bend_container, "safetensors"),
        (Target("packed", packed_files, read_packed, header_bytes), bend_container, "safetensors"),
        (Target("codebook", books, read_book, all_bytes), bend_text, "json"),
        (Target("report", reports, read_report, all_bytes), bend_text, "json"),
    ]
    rounds = {target.name: 0 for target, _, _ in every}
    findings = 0
    with tempfile.TemporaryDirectory() as folder:
        for target, _, suffix in every:
            for data in target.seeds:
                path = Path(folder) / f"good.{suffix}"
                path.write_bytes(data)
                target.read(path)  # imports and caches; and seeds are good
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end and findings < 10:
            target, bend, suffix = rng.choice(every)
            seed = rng.choice(target.seeds)
            data = bend(seed, target.headers(seed), rng)
            path = Path(folder) / f"bent.{suffix}"
            path.write_bytes(data)
            rounds[target.name] += 1
            if (what := finding(target, path, len(data))) is not None:
                findings += 1
                kept = options.keep / f"finding-{options.seed}-{sum(rounds.values())}.{suffix}"
                kept.write_bytes(data)
                print(f"{target.name}: {what} ({kept})", flush=True)
    counts = ", ".join(f"{name} {count}" for name, count in rounds.items())
    print(f"{sum(rounds.values())} files ({counts}), {findings} findings, seed {options.seed}")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
