"""Whole caches: stretches, chunks that decode alone, and the same numbers on every machine."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tqcli import kernels
from tqcli.archive import cache as archive
from tqcli.archive.cache import Encoder, decode_chunk, unpack_choice
from tqcli.archive.code import Code
from tqcli.errors import InputError


@pytest.mark.parametrize("tokens", [1, 255, 256, 257, 700])
def test_any_length(code: Code, helpers: Any, tokens: int) -> None:
    """Chunks of 256 and a rest; what comes back is near, and the same in every kernel."""
    cache = helpers.Cache(tokens, seed=tokens)
    results = []
    for name in kernels.available():
        with kernels.use(name):
            found, nbytes = helpers.round_trip(code, cache)
            results.append((b"".join(x.tobytes() for x in found), nbytes))
    assert len(set(results)) == 1
    for vectors, decoded in zip(cache.vectors, found, strict=True):
        assert decoded.shape == vectors.shape
        assert np.square(decoded - vectors).sum() < 0.01 * np.square(vectors).sum()


def test_stretches(code: Code, helpers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache longer than a stretch has several, each with tables of its own."""
    monkeypatch.setattr(archive, "STRETCH", 512)
    cache = helpers.Cache(1100, seed=8)
    stretches = list(Encoder(code).stretches(cache.read, 4, 1100))
    places = [[(part.start, part.tokens) for part in s.chunks] for s in stretches]
    assert places == [
        [(4, 256), (260, 256)],
        [(516, 256), (772, 256)],
        [(1028, 72)],
    ]
    assert not np.array_equal(stretches[0].tables, stretches[1].tables)
    assert list(Encoder(code).stretches(cache.read, 4, 4)) == []


def test_a_chunk_decodes_alone(code: Code, helpers: Any) -> None:
    """In any order, without the others, and whatever happened to them."""
    cache = helpers.Cache(700, seed=9)
    whole, _ = helpers.round_trip(code, cache)
    (stretch,) = Encoder(code).stretches(cache.read, 0, 700)
    choice = unpack_choice(stretch.tables, code.expected)
    for part in reversed(stretch.chunks):
        for layer, k, v in decode_chunk(code, part, choice):
            mine = whole[layer][part.start : part.start + part.tokens]
            assert np.array_equal(helpers.join(k, v), mine)
    broken = stretch.chunks[0].payload.copy()
    broken[8] ^= 1
    with pytest.raises(InputError, match="damaged"):
        list(decode_chunk(code, archive.Chunk(0, 256, broken), choice))


def test_symbols_that_never_came_before(code: Code, helpers: Any) -> None:
    """Tables are those of the whole stretch, though its first chunk was quiet."""
    cache = helpers.Cache(600, seed=10)
    for vectors in cache.vectors:
        vectors[:256] = vectors[:1]
    found, _ = helpers.round_trip(code, cache)
    for vectors, decoded in zip(cache.vectors, found, strict=True):
        assert np.square(decoded - vectors).sum() < 0.01 * np.square(vectors).sum()


_DECODE = """
import hashlib, pickle, sys
from tqcli.archive.cache import decode_chunk, unpack_choice
from tqcli.archive.code import Code
record, tensors, stretches = pickle.load(open(sys.argv[1], "rb"))
code, total = Code.from_tensors(record, tensors), hashlib.sha256()
for stretch in stretches:
    choice = unpack_choice(stretch.tables, code.expected)
    for part in stretch.chunks:
        for layer, k, v in decode_chunk(code, part, choice):
            total.update(k.tobytes() + v.tobytes())
print(total.hexdigest())
"""


def test_the_same_floats_on_every_machine(code: Code, helpers: Any, tmp_path: Path) -> None:
    """K before RoPE and V, bit for bit: under every BLAS kernel that this processor runs, every
    kernel of tq, one thread and two.
    """
    cache = helpers.Cache(300, seed=12)
    stretches = list(Encoder(code).stretches(cache.read, 0, 300))
    path = tmp_path / "archive.pickle"
    path.write_bytes(pickle.dumps((code.record(), code.tensors(), stretches)))
    total = hashlib.sha256()
    for stretch in stretches:
        choice = unpack_choice(stretch.tables, code.expected)
        for part in stretch.chunks:
            for _, k, v in decode_chunk(code, part, choice):
                total.update(k.tobytes() + v.tobytes())
    cores = ["Nehalem", "Sandybridge", "Haswell", "Zen"]
    if "avx512" in kernels.available():
        cores.append("SkylakeX")
    for i, core in enumerate(cores):
        own = kernels.available()[i % len(kernels.available())]
        env = {
            **os.environ,
            "OPENBLAS_CORETYPE": core,
            "OPENBLAS_NUM_THREADS": str(1 + i % 2),
            "TQ_KERNEL": "numpy" if i < 2 else own,
        }
        command = [sys.executable, "-P", "-c", _DECODE, str(path)]
        ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == total.hexdigest(), (core, own)
