"""``tq score`` on requests that are wrong: one line before any model is loaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tqcli.commands.score import score
from tqcli.errors import InputError, UsageError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"types": ["turbo9"]}, "unknown cache type 'turbo9'"),
        ({"types": ["turbo3/turbo3+center"]}, "is for K"),
        ({"types": ["a/b/c"]}, "KTYPE/VTYPE"),
        ({"types": ["turbo3", "q8_0", "turbo3/turbo3"]}, "-t turbo3: came twice"),
        ({"types": ["turbo3"], "cache_type_k": "q8_0"}, "not both"),
        ({"layer": ["0=q8_0"]}, "LAYERS:SIDE=TYPE"),
        ({"mode": "sideways"}, "on-the-fly"),
        ({"chunks": 0}, "--chunks"),
        ({"context": 2}, "ctx-size"),
        ({"keep_first": -2}, "keep-first"),
        ({"types": ["turbo3", "turbo2"], "sweep": "layers"}, "one type"),
        ({"fail_if": ["kl_mean"]}, "not a condition; write kl_mean>0.02"),
        ({"fail_if": ["foo>1"]}, "'foo' is no number in the report of tq score"),
        ({"format": "xml"}, "--format xml"),
        ({"columns": "kl,mode"}, "'kl' is no figure in the report of tq score"),
        ({"state": Path("/no/such/folder/state.json")}, "there is no folder"),
        ({"codebook": Path("a.json"), "codebook_k": Path("b.json")}, "serves both sides"),
    ],
)
def test_wrong_requests(options: dict[str, Any], message: str) -> None:
    """Each names the option and what is legal."""
    with pytest.raises(UsageError, match=message.replace("+", r"\+")) as caught:
        score("smollm2", **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'tqcli\[hf\]'") as caught:
        score("smollm2", types=["turbo3"])
    assert caught.value.exit_code == 2


def test_missing_corpus() -> None:
    """The file is named."""
    with pytest.raises(InputError, match=r"no-such\.txt"):
        score("smollm2", file=["no-such.txt"])
