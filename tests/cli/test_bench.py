"""``tq bench`` measures what it says; how fast is no business of a test."""

from __future__ import annotations

import json
from collections.abc import Callable

from tqcli import kernels


def test_rows(tq: Callable) -> None:
    """Each operation asked for, on each kernel, beside memcpy as the unit."""
    names = kernels.available()
    result = tq(
        "bench", "--vectors", 256, "--repeats", 1, "--operation", "encode", "--operation", "decode",
        "--dtype", "float32", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    rows = json.loads(result.out)["rows"]
    assert rows[0]["operation"] == "memcpy"
    assert rows[0]["ratio_to_memcpy"] == 1.0
    measured = {(r["operation"], r["kernel"]) for r in rows if r["kernel"]}
    assert measured == {(o, k) for o in ("encode", "decode") for k in names}
    assert all(row["values_per_second"] > 0 for row in rows)


def test_refusals(tq: Callable) -> None:
    """A type without kernels, and a kernel this machine has not, are named in one line."""
    for arguments, word in ((("-t", "q8_0"), "q8_0"), (("--kernel", "sse9"), "sse9")):
        result = tq("bench", *arguments)
        assert result.code == 2
        assert word in result.err
        assert result.err.count("\n") == 1
