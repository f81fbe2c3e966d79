"""Real reports of every command; only the model is a stand-in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tqcli import cli
from tqcli.commands import common
from tqcli.model.divergence import Divergence
from tqcli.model.score import PREFIX, Scores, with_proofs
from tqcli.model.subject import Subject
from tqcli.model.writer import Effect
from tqcli.plan.plan import Plan
from tqcli.report.figures import REPORTS
from tqcli.report.result import Report


def divergence(seed: int) -> Divergence:
    """One text as a model's run would give it."""
    rng = np.random.default_rng(seed)
    kl, nll, nll_float = rng.exponential(size=(3, 20))
    effects = {f"layers.0.{side}": Effect(100, 90, 40) for side in "kv"}
    return Divergence(kl, (kl < 1).astype(float), nll, nll_float, 2.0, effects)


def run_without_model(subject: Any, plans: list[Plan], **options: Any) -> Scores:
    """Scores of the right shape, where the model would run."""
    every = with_proofs(plans)
    modes = options.get("modes", (PREFIX,))
    texts = {(m, n): [divergence(n)] for m in modes for n in range(len(every))}
    return Scores(every, tuple(modes), texts)


@pytest.fixture(scope="session")
def report_of() -> Iterator[Callable[..., Report]]:
    """Run a command and get the report that it would print."""
    subject = Subject(None, [[1] * 8], {"model": "none"})
    printed: list[Report] = []
    with pytest.MonkeyPatch.context() as patch:
        for module in ("subject", "compare"):
            patch.setattr(f"tqcli.model.{module}.load_subject", lambda *_, **__: subject)
        for module in ("score", "compare"):
            patch.setattr(f"tqcli.model.{module}.score", run_without_model)
        patch.setattr("tqcli.model.sweep.cached_layers", lambda _: [0, 1])

        def run(*arguments: object) -> Report:
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(common.Output, "emit", lambda _, report: printed.append(report))
                inner.setattr(sys, "argv", ["tq", *map(str, arguments)])
                with redirect_stdout(StringIO()), pytest.raises(SystemExit) as ended:
                    cli.main()
            assert not ended.value.code
            return printed.pop()

        yield run


def write_gguf(path: Path) -> Path:
    """A model's header, as the `gguf` package writes it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10_000.0)
    writer.add_token_list(["a", "b"])
    writer.add_tensor("token_embd.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def reports(
    report_of: Callable[..., Report],
    smollm: Path,
    qwen: Path,
    fixtures: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[str, Report]]:
    """The reports of every command, in every form that has keys of its own."""
    folder = tmp_path_factory.mktemp("reports")
    packed, book, array = folder / "p.safetensors", folder / "b.json", folder / "cache.npz"
    shape = (1, 2, 7, 64)
    np.savez(array, **{f"layers.0.{side}": np.zeros(shape, np.float16) for side in "kv"})
    axes = ("--axes", "batch,head,seq,dim")
    slot, heads = fixtures / "llamacpp/f16-flash-slot.bin", ("--heads", 3, "--head-dim", 64)
    types = [word for name in ("turbo3", "turbo2", "q8_0") for word in ("-t", name)]
    commands: list[tuple[object, ...]] = [
        ("quantize", smollm, "-o", packed),
        ("unpack", packed, "-o", folder / "u.safetensors"),
        ("dump", array, *axes, "-o", folder / "d.safetensors"),
        ("fit-codebook", smollm, "-o", book),
        ("calibrate", smollm, "-o", folder / "cal.safetensors"),
        ("fit-codebook", "--distribution", "gaussian", "-o", folder / "g.json"),
        *(("inspect", path) for path in (smollm, packed, book, write_gguf(folder / "m.gguf"))),
        ("inspect", fixtures / "llamacpp/q8_0-flash-seq.bin"),
        ("inspect", array, *axes),
        ("inspect", slot, "--for", slot),
        ("convert", slot, "-o", folder / "c.bin", *heads),
        ("dump", slot, "-o", folder / "s.safetensors", *heads),
        ("restore", folder / "s.safetensors", "-o", folder / "r.bin"),
        ("evaluate", smollm, "--per-head", "--queries", 64),
        ("evaluate", qwen),
        ("compare", smollm, "--queries", 64, "--model", "none", *types),
        ("compare", qwen, "--queries", 64, *types),
        ("score", "none", "-t", "turbo3", "-t", "turbo3+center/turbo3", "--mode", "both"),
        ("score", "none", "-t", "turbo3", "--sweep", "layers"),
        ("types",),
        ("bench", "--vectors", 64, "--repeats", 1, "--operation", "encode", "--quiet"),
        ("figures",),
    ]
    found = [(str(command[0]), report_of(*command)) for command in commands]
    assert {name for name, _ in found} == set(REPORTS)
    return found
