"""What a person sees in a prompt: one short line that says what the thing is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tqcli
from tqcli.codebook import find_codebook, stock
from tqcli.model.score import Scores
from tqcli.pipeline.evaluate import Candidate
from tqcli.pipeline.judge import evaluate_and_judge, parse_queries
from tqcli.report.result import Report


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: tqcli.codec("turbo3"), "<codec turbo3: 50 bytes for 128 values>"),
        (lambda: tqcli.codec("f32"), "<codec f32: 4 bytes for 1 value>"),
        (
            lambda: tqcli.codec("turbo3", codebook=stock("gaussian-3bit")),
            "<codec turbo3: 50 bytes for 128 values, codebook gaussian-3bit>",
        ),
        (
            lambda: tqcli.codec("q4_0+rot64"),
            "<codec q4_0+rot64: 18 bytes for 32 values>",
        ),
        (lambda: stock("gaussian-1bit"), "<codebook gaussian-1bit: 1 bit, unit variance>"),
        (lambda: stock("turbo-3bit"), "<codebook turbo-3bit: 3 bits, unit vectors of 128>"),
        (lambda: find_codebook("turbo-3bit"), "<codebook set turbo-3bit: 1 table of 3 bits>"),
        (lambda: tqcli.CacheType("q8_0"), "CacheType(name='q8_0', codebook=None)"),
        (lambda: Scores((), ("prefix",), {}), "<scores of ; prefix; 0 texts>"),
        (lambda: Report("tq.x/1", "", (), [{}]), "<report tq.x/1: 1 row>"),
    ],
)
def test_repr(make: Callable[[], Any], text: str) -> None:
    """Id, size and what differs from the stock."""
    assert repr(make()) == text


def test_files(kv: Path, tmp_path: Path) -> None:
    """Dumps, packed caches and their tensors: path, sides, layers, shape, types; no arrays."""
    path = tmp_path / "p.safetensors"
    q8, t3 = tqcli.CacheType("q8_0"), tqcli.CacheType("turbo3")
    with tqcli.open_dump(kv) as dump:
        assert repr(dump) == f"<dump {kv}: k, v of 2 layers, original domain>"
        assert repr(dump.get(14, "v")) == "<layers.14.v: float16 (1, 2, 256, 128)>"
        assert repr(dump.stored["layers.0.k"]) == "<stored layers.0.k: float16 (1, 2, 256, 128)>"
        tqcli.quantize(dump, path, q8, t3)
        judged = evaluate_and_judge(dump, Candidate(q8, q8), parse_queries("none"))
    assert repr(judged).startswith("<judged, 6 rows; verdict: fine; ")
    assert repr(judged.evaluation) == "<evaluation of k, v of 2 layers>"
    assert repr(judged.attention) == "<attention of 0 layers>"
    with tqcli.open_packed(path) as packed:
        assert repr(packed) == f"<packed cache {path}: k q8_0, v turbo3 of 2 layers>"
        assert repr(packed.get(0, "k")) == "<layers.0.k: q8_0 blocks of (1, 2, 256, 128)>"
