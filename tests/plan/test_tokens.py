"""Which tokens stay float and which count, from what a source says of its texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tqcli.errors import InputError
from tqcli.plan.tokens import TILE, Tokens
from tqcli.rope import Rope, cos_sin_table


def test_first_and_last_of_every_text() -> None:
    """Three texts on one axis each have their own; a short one is all float."""
    tokens = Tokens.of_source({"sequence_lengths": [10, 3, 8]}, positions([10, 3, 8]), 1, 21)
    assert tokens.kept(4, 0) == ((0, 4), (10, 17))
    assert tokens.kept(2, 3) == ((0, 2), (7, 15), (18, 21))
    assert tokens.kept(0, 8) == ((2, 21),)
    assert tokens.kept(30, 30) == ((0, 21),)
    assert tokens.kept(0, 0) == ()
    assert tokens.counted(0) == [(4, 10), (13, 13), (17, 21)]


def test_positions_decide_what_is_first() -> None:
    """The tokens of a window from position 700 on are no sinks."""
    tokens = Tokens.of_text(700, 20)
    assert tokens.kept(4, 2) == ((18, 20),)
    assert tokens.counted(0) == [(0, 20)]
    assert Tokens.of_text(2, 20).kept(4, 0) == ((0, 2),)


@pytest.mark.parametrize(
    "source",
    [{"sequence_lengths": [5, 7]}, {"sequence_lengths": "x"}, {"sequence_lengths": [5, 8]}, {}],
)
def test_texts_are_found_by_their_positions_too(source: dict[str, Any]) -> None:
    """Where the lengths are missing or wrong, a text begins where positions fall."""
    assert Tokens.of_source(source, positions([5, 7]), 1, 12).texts(0) == ((0, 5), (5, 12))


def test_positions_from_runs_in_the_provenance() -> None:
    """A dump without the tensor may say it in words; nonsense counts as nothing said."""
    runs = [[[0, 4], [8, 2]], [[0, 6]]]
    tokens = Tokens.of_source({"positions": runs}, None, 1, 12)
    assert tokens.positions is not None
    assert tokens.positions.tolist() == [[0, 1, 2, 3, 8, 9, 0, 1, 2, 3, 4, 5]]
    for bad in ([[[0, 1 << 40]]], [[[-1, 12]]], [[0, 12]], "x", None, [[[0, 11]]], []):
        assert Tokens.of_source({"positions": bad}, None, 1, 12).positions is None


def test_batches() -> None:
    """Rows that keep different tokens have no common shape; equal ones have."""
    equal = np.tile(np.arange(12, dtype=np.int32), (2, 1))
    tokens = Tokens.of_source({"sequence_lengths": [12, 12]}, equal, 2, 12)
    assert tokens.kept(4, 2) == ((0, 4), (10, 12))
    assert [tokens.row(number) for number in (0, 1)] == [0, 1]
    other = equal.copy()
    other[1] += 3
    with pytest.raises(InputError, match="kv: its sequences stand at different positions"):
        Tokens.of_source({}, other, 2, 12).kept(4, 0, "kv")


def test_sources_that_say_nothing() -> None:
    """The first tokens are those of the axis; where a text ends nobody knows."""
    tokens = Tokens.of_source({}, None, 1, 12)
    assert tokens.kept(4, 0) == ((0, 4),)
    assert tokens.counted(0) == [(4, 12)]
    with pytest.raises(InputError, match=r"kv\.safetensors: no positions .* --keep-last"):
        tokens.kept(4, 1, "kv.safetensors")
    with pytest.raises(InputError, match="no positions"):
        next(tokens.turns(Rope("default", (1.0,))).of(0, 0, 4))


def test_layers_of_another_length() -> None:
    """Positions of whole texts say nothing of a layer that holds a window."""
    tokens = Tokens.of_source({"sequence_lengths": [12]}, positions([12]), 1, 7)
    assert tokens.positions is None


def test_turns_do_not_depend_on_how_they_are_asked_for() -> None:
    """Tiles are a cache: any run of tokens has the turns of its positions."""
    rope = Rope("default", (1.0, 0.01))
    tokens = Tokens.of_text(5, 2 * TILE + 100)
    turns = tokens.turns(rope)
    assert tokens.turns(rope) is turns
    cos, sin = cos_sin_table(np.arange(5, 5 + tokens.seq_len), rope)
    for first, count in ((0, 10), (TILE - 3, 9), (0, tokens.seq_len), (TILE + 7, TILE)):
        parts = list(turns.of(0, first, count))
        assert [parts[0][0], *(stop for _, stop, _ in parts)][-1] == count
        got = np.concatenate([turn.cos for *_, turn in parts])
        np.testing.assert_array_equal(got, cos[first : first + count])
        got = np.concatenate([turn.sin for *_, turn in parts])
        np.testing.assert_array_equal(got, sin[first : first + count])


def positions(lengths: list[int]) -> np.ndarray:
    """Of texts one behind the other, (1, tokens)."""
    return np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)[None]
