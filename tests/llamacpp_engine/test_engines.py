"""Save files of real engines: written by tq, they are restored, and the text goes on as it did."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engines
import numpy as np
import pytest
from conftest import (
    FOLLOWING,
    HOME,
    NEW_TOKENS,
    SLOTS,
    TEXT,
    Case,
    home_of,
    read_prompt,
    require_known,
)
from weights import write_float16

from tqcli.sources.llamacpp.accept import checks
from tqcli.sources.llamacpp.gguf_header import read_header
from tqcli.sources.llamacpp.parse import read_layout
from tqcli.sources.llamacpp.source import LlamaCppSource

Run = Callable[..., Any]
COMMITTED = Path(__file__).resolve().parents[2] / "fixtures" / "llamacpp"


def fine(result: Any) -> None:
    """A command that had nothing to complain of."""
    assert (result.code, result.err) == (0, "")


def relative(path: Path, other: Path, gguf: Path, layers: str = "layers.") -> float:
    """Length of the difference of all K and V of two files, relative to the second."""
    difference = length = 0.0
    pairs = zip(*(LlamaCppSource(p, model=gguf).tensors() for p in (path, other)), strict=True)
    for (name, a), (_, b) in pairs:
        if name.startswith(layers):
            a, b = a.astype(np.float64), b.astype(np.float64)
            difference += float(((a - b) ** 2).sum())
            length += float((b**2).sum())
    return (difference / length) ** 0.5


def goes_on(case: Case, path: Path) -> list[int]:
    """Restore a file into the first slot; the tokens that follow, the cache being used."""
    for slot in range(case.config.slots):
        case.engine.erase(slot)
    name = f"{path.stem}-in.bin"
    shutil.copyfile(path, case.engine.folder / name)
    case.engine.restore(name)
    answer = case.engine.go_on(case.base.tokens, FOLLOWING)
    assert answer.reused == len(case.base.tokens) - NEW_TOKENS
    return answer.tokens


def refusal(engine: engines.Engine, name: str) -> str | None:
    """What an engine says to a file; None if it takes it."""
    try:
        engine.restore(name)
    except engines.RefusedError as error:
        return str(error)
    return None


def test_a_slot_goes_back(case: Case, gguf: Path, tq: Run, tmp_path: Path) -> None:
    """Save, dump, restore: the same file where values are floats, and the same text always."""
    dump, back = tmp_path / "kv.safetensors", tmp_path / "back.bin"
    fine(tq("dump", case.slot, "--model", gguf, "-o", dump))
    fine(tq("restore", dump, "-o", back))
    if {case.config.type_k, case.config.type_v} == {"f16"}:
        assert back.read_bytes() == case.slot.read_bytes()
    else:
        assert relative(back, case.slot, gguf) < 1e-3
    assert goes_on(case, back) == case.following


def test_a_f16_slot_is_converted(case: Case, gguf: Path, tq: Run, tmp_path: Path) -> None:
    """Like a probe or by type, from the slot or its dump: one file, and the engine takes it."""
    model = ("--model", gguf)
    like, named, dump = (tmp_path / name for name in ("like.bin", "named.bin", "kv.safetensors"))
    # Before version 4 of the file, rotation is not recorded and must be said.
    quantized = case.config.type_k != "f16"
    said = ("--to-rotation", "default") if quantized and case.name == "node" else ()
    fine(tq("convert", case.base.slot, "-o", like, "--like", case.slot, *model, *said))
    types = ("-ctk", case.config.type_k, "-ctv", case.config.type_v)
    types += ("-fa", "on" if case.config.flash else "off")
    fine(tq("convert", case.base.slot, "-o", named, *types, *model, *said))
    if case.config.slots == 1:
        assert like.read_bytes() == named.read_bytes()
    fine(tq("dump", case.base.slot, *model, "-o", dump))
    again = tmp_path / "again.bin"
    rotation = ("--rotation", "default") if said else ()
    fine(tq("restore", dump, "-o", again, "--like", case.slot, *rotation))
    assert again.read_bytes() == like.read_bytes()
    assert len(goes_on(case, like)) == FOLLOWING
    fine(tq("inspect", like, "--for", case.slot, *model))


def test_inspect_for_says_what_the_engine_says(case: Case, gguf: Path, tq: Run) -> None:
    """Files of all types, accepted or refused: verdict and reason are the engine's own."""
    probe = read_layout(case.slot)
    n_vocab = read_header(gguf).vocab
    files = [case.base.slot, *COMMITTED.glob("*-session.bin"), *COMMITTED.glob("*-seq.bin")]
    files += case.base.converted(lambda a, b, *more: fine(tq("convert", a, "-o", b, *more)), gguf)
    verdicts = set()
    for number, path in enumerate(files):
        refusals = [check.refusal for check in checks(read_layout(path), probe, n_vocab=n_vocab)]
        reason = next(filter(None, refusals), None)
        name = f"candidate{number}.bin"
        shutil.copyfile(path, case.engine.folder / name)
        case.engine.erase()
        said = refusal(case.engine, name)
        assert (said is None) == (reason is None), f"{path.name}: {said}"
        assert reason is None or reason in str(said), path.name
        verdicts.add(reason is None)
    assert False in verdicts
    assert True in verdicts or case.config.slots > 1


@pytest.mark.parametrize("name", SLOTS)
def test_q8_0_is_what_the_engine_writes(name: str, gguf: Path, tq: Run, tmp_path: Path) -> None:
    """Converted from f16, beside the engine's own: rounding in the first layer, little behind it.

    Every later layer of the engine's own has read a rounded cache, so its K and V are others.
    """
    model = write_float16(gguf, HOME / "smollm2-f16.gguf")
    saved = {}
    with contextlib.ExitStack() as stack:
        node = None
        if name == "node":
            node = stack.enter_context(engines.Node(home_of(name), model))
        for kind in ("f16", "q8_0"):
            config, folder = engines.Config(kind, kind), tmp_path / kind
            folder.mkdir()
            with contextlib.ExitStack() as inner:
                engine: engines.Engine
                if node is not None:
                    engine = node.open(folder, config)
                else:
                    engine = engines.Server(home_of(name), model, folder, config)
                    inner.callback(engine.close)
                read_prompt(engine)
                saved[kind] = engine.save("saved.bin")
                require_known(saved[kind], name)
    made = tmp_path / "made.bin"
    types = ("-ctk", "q8_0", "-ctv", "q8_0", "--to-rotation", "default")
    fine(tq("convert", saved["f16"], "-o", made, *types, "--model", gguf))
    assert relative(made, saved["q8_0"], gguf, "layers.0.") < 4e-3
    assert relative(made, saved["q8_0"], gguf) < 2e-2


def test_what_only_the_server_knows(gguf: Path, tq: Run, tmp_path: Path) -> None:
    """A context that is too small, tokens that the model does not have: said, and so it is."""
    home = home_of("debian")
    with engines.Server(home, gguf, tmp_path, engines.Config()) as server:
        tokens = server.tokenize(TEXT)
        server.go_on(tokens + tokens[:40], 0)
        saved = server.save("saved.bin")
        require_known(saved, "debian")
        server.erase()
        data = bytearray(saved.read_bytes())
        data[24:28] = (60_000).to_bytes(4, "little")  # the first token, behind the blob's head
        (tmp_path / "alien.bin").write_bytes(data)
        with pytest.raises(engines.RefusedError, match="Invalid tokens in slot save file"):
            server.restore("alien.bin")
    result = tq("inspect", tmp_path / "alien.bin", "--for", saved, "--model", gguf)
    assert result.code == 1
    assert "Invalid tokens in slot save file" in result.err
    small = 256  # the smallest; asked for less, the server takes this
    assert len(tokens) + 40 > small
    with engines.Server(home, gguf, tmp_path, engines.Config(), ctx=small) as server:
        server.go_on(tokens[:4], 0)
        probe = server.save("probe.bin")
        with pytest.raises(engines.RefusedError) as refused:
            server.restore("saved.bin")
    result = tq("inspect", saved, "--for", probe, "-c", small)
    assert result.code == 1
    reason = result.err.strip().partition("refuses it: ")[2]
    assert reason in str(refused.value)
