"""Calibrations: what is collected, that files merge exactly, and who may use them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqcli.errors import InputError
from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import open_dump
from tqcli.pipeline.calibrate import calibrate, evidence_of, open_input
from tqcli.plan.calibration import Calibration, open_calibration
from tqcli.plan.grammar import PlanOptions
from tqcli.plan.heldout import residual
from tqcli.plan.tokens import Tokens
from tqcli.rope import Rope, remove_rope
from tqcli.sources.base import tokens_sha256

Make = Callable[..., Path]


def merged(paths: list[Path], out: Path) -> bytes:
    """Calibrate on files; the bytes that were written."""
    with ExitStack() as stack:
        opened = [stack.enter_context(open_input(path)) for path in paths]
        calibrate([evidence_of(one) for one in opened], out, force=True)
    return out.read_bytes()


def one_file(make_dump: Make, tmp_path: Path, name: str = "cal", **options: Any) -> Path:
    """A calibration on one dump."""
    path = tmp_path / f"{name}.safetensors"
    merged([make_dump(f"{name}-dump.safetensors", **options)], path)
    return path


def test_what_is_collected(make_dump: Make, helpers: Any, tmp_path: Path) -> None:
    """Means of K before RoPE from the fifth token on, powers of the queries of each group."""
    dump, path = make_dump("kv.safetensors", (40, 3, 30)), tmp_path / "cal.safetensors"
    merged([dump], path)
    with open_dump(dump) as source, open_calibration(path) as made:
        ids = source.token_ids()
        assert ids is not None
        names = sorted(tokens_sha256(ids[0, a:b]) for a, b in ((0, 40), (43, 73)))
        assert [text.sha256 for text in made.texts] == names
        assert made.counts.sum() == 36 + 26
        used = np.r_[4:40, 47:73]
        positions = np.r_[0:40, 0:3, 0:30]
        for layer in made.layers:
            k, q = (source.get(layer, side).stored.read()[0] for side in "kq")
            before = remove_rope(k, positions, helpers.rope).astype(np.float64)
            expected = before[:, used].mean(axis=1)
            np.testing.assert_allclose(made.mean(layer), expected, atol=1e-6)
            squares = (q[:, used].astype(np.float64) ** 2).mean(axis=1).reshape(2, 2, 64).sum(1)
            pairs = (squares[:, :32] + squares[:, 32:]) / 2
            power = made.query_power(layer)
            np.testing.assert_allclose(power, np.concatenate([pairs, pairs], axis=1), rtol=1e-9)
            np.testing.assert_array_equal(made.output_gram(layer)[0], np.eye(64) * (layer + 1))
            # noise of .25 in each of 64 values, beside a mean of 9 in each; nearly all is held out
            assert made.residual(layer) == pytest.approx(0.25 / 9.25, rel=0.25)


def test_files_merge_exactly_in_any_order(make_dump: Make, tmp_path: Path) -> None:
    """Dumps and calibrations, one by one or together, some texts twice: the same bytes."""
    dumps = [
        make_dump(f"{n}.safetensors", lengths, seed=n, queries=n != 2)
        for n, lengths in ((1, (40, 30)), (2, (25,)), (3, (60, 6, 33)))
    ]
    out = tmp_path / "out.safetensors"
    whole = merged(dumps, out)
    singles = []
    for number, dump in enumerate(dumps):
        singles.append(tmp_path / f"cal{number}.safetensors")
        merged([dump], singles[-1])
    for order in itertools.permutations(singles):
        assert merged(list(order), out) == whole
    pair = tmp_path / "pair.safetensors"
    merged([singles[2], dumps[1]], pair)
    assert merged([singles[0], pair], out) == whole
    assert merged([pair, singles[1], dumps[0], pair], out) == whole
    with open_calibration(out) as made:
        assert (len(made.texts), made.with_queries) == (6, 5)
        assert made.texts == sorted(made.texts)


def test_the_mean_is_of_all_tokens(make_dump: Make, tmp_path: Path) -> None:
    """Merged means weigh by tokens, as if the texts had stood in one dump."""
    parts = [one_file(make_dump, tmp_path, f"c{n}", lengths=(n * 10,), seed=n) for n in (1, 4)]
    both = tmp_path / "both.safetensors"
    merged(parts, both)
    means = []
    for path in (*parts, both):
        with open_calibration(path) as made:
            means.append(made.mean(1))
    np.testing.assert_allclose(means[2], (means[0] * 6 + means[1] * 36) / 42, rtol=1e-12)


def test_a_text_that_differs(make_dump: Make, tmp_path: Path) -> None:
    """The same tokens with other keys: one of them is not what it seems."""
    a = make_dump("a.safetensors", (40,))
    b = make_dump("b.safetensors", (40,), dtype="float16")
    with pytest.raises(InputError, match=r"b\.safetensors: text .* another sums in layer 0"):
        merged([a, b], tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


OTHER = Rope("default", tuple((5e5 ** -(np.arange(32) / 32)).tolist()), theta=5e5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"config_sha256": "e" * 64}, "of another model: config"),
        ({"tokenizer_sha256": "e" * 64}, "of another model: tokenizer"),
        ({"architecture": "qwen2"}, "architecture llama of tiny is not qwen2"),
        ({"rope": OTHER}, "of another RoPE: default, theta"),
    ],
)
def test_another_model_is_refused(
    make_dump: Make, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    """Neither merged nor used; the line says what differs."""
    cal = one_file(make_dump, tmp_path)
    other = make_dump("other.safetensors", seed=2, **changed)
    with pytest.raises(InputError, match=message):
        merged([cal, other], tmp_path / "out.safetensors")
    with open_dump(other) as dump, open_calibration(cal) as made:
        tokens = Tokens.of_dump(dump, 1, 70)
        with pytest.raises(InputError, match=rf"cal\.safetensors: .*{message}|{message}"):
            made.center(0, (2, 64), dump.source, tokens)


def test_use(make_dump: Make, tmp_path: Path) -> None:
    """A dump of the same model gets the mean of its layer; names and unknown hashes are free."""
    cal = one_file(make_dump, tmp_path)
    dump = make_dump("other.safetensors", seed=2, model="a nickname", config_sha256=None)
    with open_dump(dump) as opened, open_calibration(cal) as made:
        tokens = Tokens.of_dump(opened, 1, 70)
        center = made.center(1, (2, 64), opened.source, tokens)
        np.testing.assert_array_equal(center.mean, made.mean(1).astype(np.float16))
        assert str(center) == "calibrated mean before RoPE"
        with pytest.raises(InputError, match=r"layer 1: .*\(2, 64\), here it is \(2, 32\)"):
            made.center(1, (2, 32), opened.source, tokens)
        with pytest.raises(InputError, match="nothing of layer 7"):
            made.mean(7)
        for source, where in (({}, tokens), (opened.source, Tokens(70))):
            with pytest.raises(InputError, match="nothing says what RoPE did"):
                made.center(1, (2, 64), source, where)


def test_rope_by_length(make_dump: Make, tmp_path: Path) -> None:
    """Dynamic scaling has other frequencies in each text; K before RoPE is the same."""
    ropes = [
        Rope(
            "dynamic", tuple((base ** -(np.arange(32) / 32)).tolist()), theta=1e4,
            scaling={"factor": 4.0},
        )
        for base in (1e4, 3e4)
    ]  # fmt: skip
    parts = [
        one_file(make_dump, tmp_path, f"c{n}", seed=n, rope=rope) for n, rope in enumerate(ropes)
    ]
    out = tmp_path / "out.safetensors"
    assert merged(parts, out) == merged(parts[::-1], out)
    with open_calibration(out) as made:
        assert made.rope(0) == ropes[0]
    other = one_file(
        make_dump, tmp_path, "other", seed=3, rope=replace(ropes[0], scaling={"factor": 8.0})
    )
    with pytest.raises(InputError, match="another RoPE"):
        merged([other, parts[0]], out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rope": Rope("unknown")}, r"layers\.0\.k: nothing says what RoPE did"),
        ({"lengths": (4, 3)}, "more than 4 tokens"),
    ],
)
def test_dumps_that_tell_nothing(
    make_dump: Make, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    """No RoPE, no positions, no text long enough: one line, nothing written."""
    out = tmp_path / "out.safetensors"
    with pytest.raises(InputError, match=message):
        merged([make_dump("kv.safetensors", **options)], out)
    assert not out.exists()


def test_arrays_cannot_calibrate(qwen: Path, tmp_path: Path) -> None:
    """An excerpt without a record of RoPE and positions."""
    with pytest.raises(InputError, match="what tq dump MODEL writes"):
        merged([qwen], tmp_path / "out.safetensors")


def test_other_layers(make_dump: Make, helpers: Any, tmp_path: Path) -> None:
    """All files speak of the same layers, or none is merged."""
    path = make_dump("whole.safetensors")
    with open_dump(path) as dump:
        tensors = {
            name: stored.read() for name, stored in dump.stored.items() if "layers.1" not in name
        }
        part = helpers.write(tmp_path / "part.safetensors", tensors, dump.source)
    with pytest.raises(InputError, match=r"part\.safetensors: 1 layers"):
        merged([path, part], tmp_path / "out.safetensors")


def test_a_real_dump(smollm: Path, tmp_path: Path) -> None:
    """SmolLM2: a fifth to a third of K's power is left on the other half of the text."""
    out = tmp_path / "cal.safetensors"
    with open_dump(smollm) as dump:
        rows = calibrate([evidence_of(dump)], out)
        q, k = (dump.get(7, side).stored.read().astype(np.float64) for side in "qk")
    assert [row["layer"] for row in rows] == [0, 7, 15, 29]
    assert all(0.1 < row["residual"] < 0.4 for row in rows)
    assert rows[0]["tokens"] == 252
    with open_calibration(out) as made:
        power = made.query_power(7)
        assert power is not None
        assert power.sum() == pytest.approx((q[:, :, 4:] ** 2).sum() / 252, rel=1e-9)
        left = k[0, :, 4:].shape[1]
        assert left == 252


def test_residual_of_known_numbers() -> None:
    """Each part against the mean of the others; no part, no power: no figure."""
    sums = np.array([[[[2.0]], [[4.0]]]])
    power, counts = np.array([[[4.0], [9.0]]]), np.array([[1, 2]])
    # first half: |2 - 2|^2; second: 9 - 2 * 2 * 4 + 2 * 4
    assert residual(sums, power, counts) == pytest.approx((0 + 1) / 13)
    two = np.concatenate([sums, sums]), np.concatenate([power, power])
    assert residual(*two, np.concatenate([counts, counts])) == pytest.approx((26 - 24) / 26)
    assert residual(sums, power, np.array([[3, 0]])) is None
    assert residual(sums * 0, power * 0, counts) is None


def damaged(path: Path, out: Path, change: Callable[[Any, Any], Any]) -> Path:
    """A calibration written anew with another record or other tensors, its checksums right."""
    with open_calibration(path) as made:
        record = json.loads(json.dumps(made.record))
        tensors = {name: stored.read() for name, stored in made.stored.items()}
    record["tensors"] = {}
    change(record, tensors)
    specs = [(name, values.dtype, values.shape) for name, values in tensors.items()]
    with ContainerWriter(out, specs, record, force=True) as writer:
        for name, values in tensors.items():
            writer.write(name, [values])
    return out


K_SUM = "layers.0.k.sum"
DAMAGES: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "schema": (lambda r, t: r.update(schema="tq.calibration/9"), "schema 'tq.calibration/9'"),
    "no model": (lambda r, t: r.pop("model"), "lacks the model"),
    "model of numbers": (lambda r, t: r["model"].update(models=[5]), "no text"),
    "hash of numbers": (lambda r, t: r["model"].update(config_sha256=5), "no text"),
    "no texts": (lambda r, t: r.pop("texts"), "lacks its texts"),
    "a text too few": (lambda r, t: r["texts"].pop(), "for 1 texts is expected"),
    "texts out of order": (lambda r, t: r["texts"].reverse(), "not in order"),
    "a text twice": (lambda r, t: r["texts"].append(r["texts"][1]), "stands twice"),
    "negative tokens": (lambda r, t: r["texts"][0].update(tokens=-1), "lacks its texts"),
    "counts of three parts": (lambda r, t: r["texts"][0].update(counted=[1, 2, 3]), "texts"),
    "no RoPE": (lambda r, t: r.pop("rope"), "nothing about layer 0"),
    "bad RoPE": (lambda r, t: r["rope"][0].update(pairs="spiral"), "spiral"),
    "no sums": (lambda r, t: t.pop(K_SUM), "lacks the sums of K"),
    "other rank": (lambda r, t: t.update({K_SUM: t[K_SUM][:, 0]}), "is expected"),
    "other dtype": (lambda r, t: t.update({K_SUM: t[K_SUM].astype("f4")}), "float32"),
    "NaN": (lambda r, t: t[K_SUM].fill(np.nan), "NaN or Inf"),
    "unknown tensor": (lambda r, t: t.update({"layers.0.k.x": t[K_SUM]}), "unknown tensor"),
    "nothing": (lambda r, t: t.clear(), "no layer in it"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files(make_dump: Make, tmp_path: Path, name: str) -> None:
    """Foreign metadata is checked before it is believed; one line that names the file."""
    change, message = DAMAGES[name]
    path = damaged(one_file(make_dump, tmp_path), tmp_path / "bad.safetensors", change)
    with pytest.raises(InputError, match=message) as caught, open_calibration(path) as made:
        made.mean(0)
    assert str(caught.value).startswith(str(path))


def test_a_changed_record_is_found(make_dump: Make, tmp_path: Path) -> None:
    """A calibration that was made to fit another model by hand does not open."""
    path = one_file(make_dump, tmp_path)
    path.write_bytes(path.read_bytes().replace(b"c" * 64, b"e" * 64))
    with pytest.raises(InputError, match="were changed"):
        open_calibration(path)


def test_dumps_do_not_hold_float64(make_dump: Make, tmp_path: Path) -> None:
    """Calibrations alone do, and are no dumps."""
    path = one_file(make_dump, tmp_path)
    with pytest.raises(InputError, match=r"dtype F64"):
        open_dump(path)
    with pytest.raises(InputError, match="make one with tq calibrate"):
        Calibration(make_dump("kv.safetensors"))


def test_plans_name_calibrations_by_content(make_dump: Make, tmp_path: Path) -> None:
    """The same plan with another calibration is another plan."""
    paths = [one_file(make_dump, tmp_path, f"c{n}", seed=n) for n in (1, 2)]
    plans = [
        PlanOptions(cache_type_k="turbo3+center", calibration=path).one() for path in (*paths, None)
    ]
    assert len({plan.identity() for plan in plans}) == 3
    assert plans[0].flags()[-2:] == ["--calibration", str(paths[0])]
    assert str(tmp_path) not in json.dumps(plans[0].record())
    with pytest.raises(InputError, match="nowhere"):
        PlanOptions(calibration=tmp_path / "nowhere.safetensors").plans()


def test_command(tq: Any, make_dump: Make, tmp_path: Path) -> None:
    """``tq calibrate``: a table by layer, JSON with every figure, and no file overwritten."""
    dump, out = make_dump("kv.safetensors"), tmp_path / "cal.safetensors"
    first = tq("calibrate", dump, "-o", out)
    assert (first.code, "residual" in first.out) == (0, True)
    again = tq("calibrate", dump, out, "-o", out, "--force")
    assert (again.code, "input itself" in again.err) == (2, True)
    assert tq("calibrate", dump, "-o", out).code == 2
    other = tmp_path / "other.safetensors"
    result = tq("calibrate", out, make_dump("b.safetensors", seed=2), "-o", other, "--json")
    rows = json.loads(result.out)["rows"]
    assert [row["texts"] for row in rows] == [4, 4]
    assert tq("calibrate", "-o", tmp_path / "x.safetensors").code == 2
    missing = tq("calibrate", tmp_path / "missing.safetensors", "-o", tmp_path / "x.safetensors")
    assert (missing.code, missing.err.count("\n")) == (3, 1)
