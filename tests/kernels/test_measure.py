"""The measuring core of ``tq bench``: what it measures, never how fast that is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tqcli import codec, kernels
from tqcli.errors import UsageError
from tqcli.kernels import measure


def test_every_operation_once(helpers: Any) -> None:
    """Each kernel runs each operation in each float type, once per number of threads."""
    rows = measure.measure(helpers.layout(3), vectors=300, repeats=1, threads=(1, 2))
    keys = [
        (r["operation"], r["kernel"], r["dtype"], r["threads"], r["queries"])
        for r in rows
        if r["kernel"]
    ]
    assert max(Counter(keys).values()) == 1
    assert {key[0] for key in keys} == set(measure.DEFAULT)
    assert {key[1] for key in keys} == set(kernels.available())
    floats = {key[2] for key in keys if key[0] == "encode"}
    assert floats == {"float32", "float16", "bfloat16"}
    per_kernel = Counter(key[1] for key in keys)
    assert len(set(per_kernel.values())) == 1


def test_trellis_operations() -> None:
    """All but packing, which takes the codes of a table by themselves."""
    layout = codec("trellis2-g64").layout  # type: ignore[attr-defined]
    names = kernels.available()[:1]
    rows = measure.measure(
        layout, vectors=30, names=names, repeats=1, operations=measure.OPERATIONS
    )
    found = {r["operation"] for r in rows if r["kernel"]}
    assert found == set(measure.OPERATIONS) - {"pack", "unpack"}


def test_the_slow_operation_is_measured_when_asked_for(helpers: Any) -> None:
    """A weighted search takes as long as all the rest together."""
    assert set(measure.OPERATIONS) - set(measure.DEFAULT) == {"encode weighted"}
    names, asked = kernels.available()[:1], ["encode weighted"]
    rows = measure.measure(helpers.layout(2), vectors=9, names=names, operations=asked, repeats=1)
    assert {row["operation"] for row in rows if row["kernel"]} == {"encode weighted"}


def test_ratio_is_to_memcpy(helpers: Any) -> None:
    """The first row is memcpy of float32, and every ratio is to its rate."""
    names, repeats = kernels.available()[:1], 3
    steps: list[int] = []
    rows = measure.measure(
        helpers.layout(2),
        vectors=200,
        names=names,
        operations=["encode"],
        dtypes=["float16"],
        repeats=repeats,
        progress=lambda: steps.append(1),
    )
    assert (rows[0]["operation"], rows[0]["dtype"]) == ("memcpy", "float32")
    assert rows[0]["size_bytes"] == 200 * 128 * 4
    assert rows[0]["ratio_to_memcpy"] == 1
    assert len(steps) == repeats + 1  # one to warm up
    last = rows[-1]
    assert (last["operation"], last["kernel"], last["size_bytes"]) == ("encode", names[0], 51200)
    assert last["ratio_to_memcpy"] == last["values_per_second"] / rows[0]["values_per_second"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"names": ["sse9"]}, "kernel: 'sse9'"),
        ({"operations": ["transcode"]}, "operation: 'transcode'"),
        ({"dtypes": ["float64"]}, "dtype: 'float64'"),
        ({"vectors": 0}, "at least 1"),
        ({"repeats": 0}, "at least 1"),
        ({"threads": [0]}, "at least 1"),
    ],
)
def test_bad_request(helpers: Any, options: dict[str, Any], says: str) -> None:
    """A name that is not there is named, with those that are."""
    with pytest.raises(UsageError, match=says):
        measure.measure(helpers.layout(3), **options)
