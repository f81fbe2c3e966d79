"""Calibration on dumps: real K, V and Q of four layers of SmolLM2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqcli.archive.api import decode, encode
from tqcli.archive.derive import derive
from tqcli.errors import InputError
from tqcli.kv.container import ContainerWriter
from tqcli.kv.dump import dump_record, open_dump
from tqcli.pipeline.archive_calibrate import Calibration, by_pairs, calibrate
from tqcli.rope import Rope, remove_rope, rope_of


@pytest.fixture(scope="module")
def found(smollm: Path) -> Calibration:
    """The fixture's four layers, as if they were neighbours."""
    with open_dump(smollm) as dump:
        return calibrate(dump, reach=1)


def test_what_is_summed(found: Calibration, smollm: Path) -> None:
    """All tokens but the first four, K before RoPE; queries from position 64 on."""
    assert found.moments.tokens == 252
    assert found.shapes == [(3, 64, 64)] * 4
    with open_dump(smollm) as dump:
        k = dump.get(7, "k").stored.read()[0].astype(np.float32)  # type: ignore[union-attr]
        v = dump.get(7, "v").stored.read()[0].astype(np.float32)  # type: ignore[union-attr]
        before = remove_rope(k, np.arange(256), rope_of(dump.source["rope"], 7))
    mean = np.concatenate([before[:, 4:].mean(axis=1).ravel(), v[:, 4:].mean(axis=1).ravel()])
    np.testing.assert_allclose(found.moments.mean(1), mean, atol=1e-5)
    own = found.sensitivity[7]
    assert own.queries == 192
    assert (own.key > 0).all()
    assert (own.value > 0).all()
    assert found.grams[7].shape == (3, 64, 64)


def test_it_codes_its_own_dump(found: Calibration, smollm: Path) -> None:
    """About two bits a value on distant layers and 252 tokens, K and V within a tenth."""
    with open_dump(smollm) as dump:
        ropes = {i: rope_of(dump.source["rope"], i) for i in dump.layers}
        layers = [
            tuple(dump.get(i, side).stored.read()[0] for side in "kv")  # type: ignore[union-attr]
            for i in dump.layers
        ]
    code = derive(found.moments, found.weights(ropes), 0.05, group=2, back=0)
    rules: Any = list(ropes.values())
    archive = encode(layers, code, ropes=rules)  # type: ignore[arg-type]
    values = sum(x.size for pair in layers for x in pair)
    assert 8 * archive.nbytes / values < 2.2
    for pair, back in zip(layers, decode(archive, code, ropes=rules), strict=True):
        for x, y in zip(pair, back, strict=True):
            x, y = x.astype(np.float64), y.astype(np.float64)
            centred = x - x.mean(axis=1, keepdims=True)
            assert np.square(y - x).sum() < 0.1 * np.square(centred).sum()


def test_merging(found: Calibration, smollm: Path) -> None:
    """Twice the same text: twice the sums, the same weights."""
    with open_dump(smollm) as dump:
        ropes = {i: rope_of(dump.source["rope"], i) for i in dump.layers}
        twice = calibrate(dump, reach=1)
        twice.merge(found)
    assert twice.moments.tokens == 504
    for one, two in zip(found.weights(ropes), twice.weights(ropes), strict=True):
        np.testing.assert_allclose(one.k, two.k, rtol=1e-12)
        np.testing.assert_allclose(one.v, two.v, rtol=1e-9)


def test_pairs() -> None:
    """Both values of a pair get its mean, whichever they are; the others keep their own."""
    power = np.arange(10.0)[None]
    half = by_pairs(power, Rope("default", inv_freq=(1.0, 0.5, 0.1)))
    assert half[0].tolist() == [1.5, 2.5, 3.5, 1.5, 2.5, 3.5, 6, 7, 8, 9]
    turns = by_pairs(power, Rope("default", inv_freq=(1.0, 0.5), pairs="interleaved"))
    assert turns[0].tolist() == [0.5, 0.5, 2.5, 2.5, 4, 5, 6, 7, 8, 9]
    assert by_pairs(power, Rope("none"))[0].tolist() == power[0].tolist()


def test_what_is_missing_is_said(smollm: Path, qwen: Path, tmp_path: Path) -> None:
    """No Gram matrices, no queries: what to do stands in the line."""
    with open_dump(qwen) as dump, pytest.raises(InputError, match="no o_gram; dump it anew"):
        calibrate(dump, reach=1)
    path = tmp_path / "kv.safetensors"
    with open_dump(smollm) as dump:
        kv = [t for t in dump.kv() if t.layer == 0]
        record = dump_record(dump.source, "original", "test")
        with ContainerWriter(path, [(t.name, t.dtype, t.shape) for t in kv], record) as writer:
            for tensor in kv:
                writer.write(tensor.name, [tensor.stored.read()])
    with open_dump(path) as dump, pytest.raises(InputError, match="no queries; dump it anew"):
        calibrate(dump, reach=1)
