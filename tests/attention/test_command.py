"""``tq evaluate`` on dumps with and without queries."""

import json

import pytest

from tqcli.kv.dump import open_dump


@pytest.fixture
def bare(smollm, write_dump):
    """A dump without queries."""
    with open_dump(smollm) as dump:
        return write_dump({t.name: t.stored.read() for t in dump.kv()})


def test_last_line_is_the_verdict(tq, qwen):
    """A person reads the last line: what is at fault, and what to do."""
    done = tq("evaluate", qwen)
    assert done.code == 0
    last = done.out.rstrip("\n").splitlines()[-1]
    assert last.startswith("verdict: collapse; at fault: K of layers 0-1")
    assert "turbo3+center" in last


def test_rows_carry_verdict_and_number(tq, smollm):
    """Programs read the level and the figure that decided it."""
    rows = json.loads(tq("evaluate", smollm, "--json").out)["rows"]
    assert {row["verdict"] for row in rows} == {"fine"}
    for row in rows:
        assert "output error" in row["verdict_by"]
        assert row["output_error"] > 0
        assert (row["attention_kl"] is None) == (row["side"] == "v")


def test_gate_on_the_output_error(tq, qwen):
    """The new figures can be gated like the old ones."""
    assert tq("evaluate", qwen, "--fail-if", "layers.*.k.output_error>0.75").code == 1
    assert tq("evaluate", qwen, "--fail-if", "layers.*.v.output_error>0.25").code == 0


def test_sample_is_stated(tq, smollm):
    """A figure from a sample says so."""
    done = tq("evaluate", smollm, "--queries", "64")
    assert "a random sample of 64 query positions a layer, of 256" in done.out
    assert "sample" not in tq("evaluate", smollm, "--queries", "all").out


def test_heads_have_no_attention_figures(tq, smollm):
    """Figures of a layer are not repeated on rows of its heads."""
    rows = json.loads(tq("evaluate", smollm, "--per-head", "--json").out)["rows"]
    heads = [row for row in rows if row["head"] is not None]
    assert heads
    assert {row["output_error"] for row in heads} == {row["verdict"] for row in heads} == {None}


def test_without_queries_it_says_what_is_unknown(tq, bare, smollm):
    """Everything else is still measured, the verdict included."""
    done = tq("evaluate", bare)
    assert done.code == 0
    assert "attention could not be measured (no queries)" in done.out
    assert done.out.rstrip("\n").splitlines()[-1].startswith("verdict: fine")
    none = tq("evaluate", smollm, "--queries", "none")
    assert "attention was not measured (--queries none)" in none.out


def test_queries_demanded_and_missing(tq, bare):
    """Who asks for attention and has no Q learns how to get it."""
    done = tq("evaluate", bare, "--queries", "all")
    assert done.code == 3
    assert len(done.err.splitlines()) == 1
    assert "tq dump --queries" in done.err


def test_bad_option_is_a_usage_error(tq, smollm):
    """Exit 2, one line."""
    done = tq("evaluate", smollm, "--queries", "many")
    assert done.code == 2
    assert "--queries 'many'" in done.err


def test_heads_that_do_not_divide(tq, layer, write_dump):
    """Exit 3, one line, no table."""
    arrays = layer()
    arrays["layers.0.q"] = arrays["layers.0.q"][:, :3].copy()
    done = tq("evaluate", write_dump(arrays))
    assert done.code == 3
    assert done.out == ""
    assert len(done.err.splitlines()) == 1
    assert "3 query heads for 2 KV heads" in done.err
