"""Turbo codecs with another table than the stock one."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

import tqcli
from tqcli.codebook import Codebook, lloyd_max, stock
from tqcli.codecs import from_config
from tqcli.errors import InputError

Make = Callable[..., np.ndarray]


@pytest.fixture
def fitted(gaussian: Make) -> Codebook:
    """A table of lopsided data, with boundaries of its own."""
    x = gaussian(300, 128)
    x[:, 0] += 30
    return tqcli.fit_codebook(x, bits=3, symmetric=False)


@pytest.mark.parametrize("name", ["turbo3", "turbo3-b32", "turbo3-g64", "turbo3-v0"])
def test_config_round_trip(name: str, fitted: Codebook, gaussian: Make) -> None:
    """The whole table stands in the record, digit by digit: a file explains itself."""
    made = tqcli.codec(name, codebook=fitted)
    again = from_config(json.loads(json.dumps(made.config())), "x")
    assert again.config() == made.config()
    x = gaussian(50, 128)
    assert np.array_equal(again.encode(x), made.encode(x))
    assert again.decode(made.encode(x)).tobytes() == made.decode(made.encode(x)).tobytes()
    assert not np.array_equal(made.encode(x), tqcli.codec(name).encode(x))


def test_stock_table_by_another_name_is_stock() -> None:
    """Identity is the numbers, so the record stays short."""
    book = stock("turbo-3bit")
    twin = Codebook("mine", book.bits, book.dim, book.centroids, book.boundaries)
    same = Codebook("turbo-3bit", book.bits, book.dim, book.centroids, book.boundaries)
    assert tqcli.codec("turbo3", codebook=same).config() == {"id": "turbo3"}
    assert tqcli.codec("turbo3", codebook=twin).config()["id"] == "turbo3"


@pytest.mark.parametrize("group", [64, 128])
def test_units(group: int, gaussian: Make) -> None:
    """A table in standard deviations and one in unit vectors of 128 are the same table."""
    normal, _ = lloyd_max("gaussian", 3)
    root = np.sqrt(128)
    scaled = Codebook(
        "scaled",
        3,
        128,
        tuple(float(c / root) for c in normal.centroids),
        tuple(float(b / root) for b in normal.boundaries),
    )
    name = "turbo3" if group == 128 else "turbo3-g64"
    a, b = (tqcli.codec(name, codebook=book) for book in (normal, scaled))
    x = gaussian(200, group)
    assert np.array_equal(a.codes(a.encode(x)), b.codes(b.encode(x)))
    assert np.allclose(a.decode(a.encode(x)), b.decode(b.encode(x)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"id": 3},
        {"id": "turbo9"},
        {"id": "q8_0", "codebook": {"id": "x"}},
        {"id": "turbo3", "codebook": {}},
        {"id": "turbo3", "codebook": 7},
        {"id": "turbo3", "codebook": {"id": "x", "bits": "many"}},
        {"id": "turbo3", "codebook": lloyd_max("gaussian", 2)[0].table() | {"id": "x"}},
        {"id": "turbo3", "codebook": stock("turbo-3bit").table() | {"id": "x", "bits": 10**400}},
        {"id": "turbo3", "codebook": stock("turbo-3bit").table() | {"id": "x", "dim": 0}},
        {"id": "q4_0+rot"},
        {"id": "q4_0+rot96"},
        {"id": "turbo3+rot128"},
    ],
    ids=str,
)
def test_damaged_records(config: dict[str, object]) -> None:
    """A file that describes no codec is refused, and named."""
    with pytest.raises(InputError, match=r"^a\.safetensors: ") as caught:
        from_config(config, "a.safetensors")
    assert "\n" not in str(caught.value)


def test_other_bits_are_refused() -> None:
    """A 4-bit table cannot serve a 3-bit layout."""
    with pytest.raises(InputError, match="4 bits; turbo3 takes 3"):
        tqcli.codec("turbo3", codebook=stock("turbo-4bit"))
