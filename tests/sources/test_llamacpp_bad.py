"""Damaged save files: one typed error on one line, and no allocation beyond twice the file."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import pytest

from tqcli.errors import InputError, TqError
from tqcli.sources.llamacpp.file import ROWS_HEADER
from tqcli.sources.llamacpp.parse import read_layout
from tqcli.sources.llamacpp.source import LlamaCppSource

FOLDER = Path(__file__).parents[2] / "fixtures" / "llamacpp"
REAL = sorted(FOLDER.glob("*.bin"))
SMOLLM2 = {"heads": 3, "head_dim": 64, "arch": "llama", "sequence": 0}
# Objects that do not grow with the file: layer tables, buffers of the file object, the codec.
CONSTANT = 1 << 20


def read_all(path):
    """Read every tensor; return the error, if there was one."""
    try:
        for _ in LlamaCppSource(path, **SMOLLM2).tensors():
            pass
    except TqError as error:
        return error
    return None


def refused(path):
    """The error of a file that must be refused: typed, one line, with the file's name."""
    error = read_all(path)
    assert isinstance(error, InputError), error
    assert "\n" not in str(error)
    assert path.name in str(error)
    return str(error)


def test_there_are_real_files():
    """The tests below go through all of them."""
    assert len(REAL) == 6


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.name)
def test_truncated_at_every_997th_byte(path, tmp_path):
    """A file that ends early is refused wherever it ends, and the message names a field."""
    data, short = path.read_bytes(), tmp_path / "short.bin"
    for length in (*range(0, len(data), 997), len(data) - 1):
        short.write_bytes(data[:length])
        message = refused(short)
        assert "are left" in message or length < 4


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.name)
def test_truncation_allocates_no_more_than_the_file(path, tmp_path):
    """Counts are checked against what is left before anything is made of that size."""
    data, short = path.read_bytes(), tmp_path / "short.bin"
    read_all(path)  # imports and caches are not the file's doing
    for length in range(0, len(data), 9973):
        short.write_bytes(data[:length])
        tracemalloc.start()
        read_all(short)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 2 * length + CONSTANT


def header_bytes(path):
    """Offsets of every byte that is not a row: all header fields."""
    save = read_layout(path)
    rows = []
    for stream in save.streams:
        for side, table in (("k", save.k), ("v", save.v)):
            for layer, one in enumerate(table):
                at = save.offset(stream, side, layer)
                rows.append((at, at + one.nbytes(stream.cells)))
    at, found = 0, []
    for start, end in sorted(rows):
        found.extend(range(at, start))
        at = end
    assert at == save.size
    return found


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.name)
def test_a_flipped_bit_in_every_header_field(path, tmp_path):
    """Every header byte, one bit at a time: a typed error, or a reading that is legal too.

    Tokens, positions and sequence ids have other legal values; sizes, counts, types and marks
    have none that fit, so those flips must be refused.
    """
    data, bent = bytearray(path.read_bytes()), tmp_path / "bent.bin"
    header = header_bytes(path)
    refusals = 0
    for number, at in enumerate(header):
        bit = 1 << (number * 5 % 8)
        data[at] ^= bit
        bent.write_bytes(data)
        data[at] ^= bit
        error = read_all(bent)
        assert error is None or "\n" not in str(error)
        refusals += error is not None
    assert refusals > 0.8 * len(header)


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.name)
def test_every_type_and_size_field_is_guarded(path, tmp_path):
    """The twelve bytes before each layer's rows: no bit of them can change unnoticed."""
    data, bent = bytearray(path.read_bytes()), tmp_path / "bent.bin"
    save = read_layout(path)
    tracemalloc.start()
    for side, layer in (("k", 0), ("v", 29)):
        start = save.offset(save.streams[0], side, layer) - ROWS_HEADER
        for at in range(start, start + ROWS_HEADER):
            for bit in range(8):
                data[at] ^= 1 << bit
                bent.write_bytes(data)
                data[at] ^= 1 << bit
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                refused(bent)
                peak = tracemalloc.get_traced_memory()[1] - before
                assert peak <= 2 * len(data) + CONSTANT
    tracemalloc.stop()


def test_huge_counts_are_refused_at_once(tmp_path):
    """Each count set to its maximum: refused before a byte is allocated for it."""
    real = FOLDER / "q8_0-flash-seq.bin"
    data, bent = real.read_bytes(), tmp_path / "bent.bin"
    save = read_layout(real)
    tokens, streams = 8, 12 + 4 * len(save.tokens)
    first_cell = streams + 8
    first_layer = save.offset(save.streams[0], "k", 0) - ROWS_HEADER
    layers, row_bytes = first_layer - 4, first_layer + 4
    fields = {
        "tokens": (tokens, struct.pack("<I", 2**32 - 1)),
        "streams": (streams, struct.pack("<I", 2**32 - 1)),
        "cells": (streams + 4, struct.pack("<I", 2**32 - 1)),
        "sequences": (first_cell + 4, struct.pack("<I", 2**32 - 1)),
        "layers": (layers, struct.pack("<I", 2**32 - 1)),
        "row size": (row_bytes, struct.pack("<Q", 2**64 - 1)),
    }
    read_all(real)
    for name, (at, value) in fields.items():
        bent.write_bytes(data[:at] + value + data[at + len(value) :])
        tracemalloc.start()
        refused(bent)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 2 * len(data) + CONSTANT, name


def test_a_scale_that_is_no_number_is_located(tmp_path):
    """A block with a NaN scale is refused with the tensor, the token and the head."""
    real = FOLDER / "q8_0-flash-seq.bin"
    data, save = bytearray(real.read_bytes()), read_layout(real)
    row = save.k[0].row_bytes
    at = save.offset(save.streams[0], "k", 4) + 3 * row + 2 * (row // 3)  # token 3, head 2
    data[at : at + 2] = b"\x00\x7e"
    path = tmp_path / "nan.bin"
    path.write_bytes(data)
    assert "layers.4.k: token 3 head 2: stored scale is not finite" in refused(path)


def test_trailing_bytes_are_refused(tmp_path):
    """A second cache behind the first is not read over."""
    path = tmp_path / "long.bin"
    path.write_bytes((FOLDER / "q4_0-flash-session.bin").read_bytes() + b"\0")
    assert "1 bytes after the last row; none is expected" in refused(path)


def test_unknown_versions_are_named(tmp_path):
    """A version we have not seen is an error that says which, for both kinds."""
    path = tmp_path / "new.bin"
    path.write_bytes(struct.pack("<III", 0x6767736E, 12, 0) + bytes(64))
    assert "session file of version 12; known: 9, 10, 11" in refused(path)
    path.write_bytes(struct.pack("<III", 0x67677371, 5, 0) + bytes(64))
    assert "sequence file of version 5; known: 2, 3, 4" in refused(path)


def test_files_of_other_kinds(tmp_path):
    """Anything else is named for what it is not; nothing is opened that is no regular file."""
    path = tmp_path / "other.bin"
    path.write_bytes(b"")
    assert "magic needs 4 bytes and 0 are left" in refused(path)
    path.write_bytes(b"GGUF" + bytes(20))
    assert "llama.cpp save files start with" in refused(path)
    assert "not a regular file" in refused(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "not a regular file" in refused(fifo)
    assert "not a regular file" in str(read_all(Path("/dev/zero")))
    assert "cannot be read" in refused(tmp_path / "missing.bin")
    assert isinstance(read_all("nul\0name"), InputError)


def test_a_file_that_shrinks_is_refused(tmp_path):
    """The rows are read after the headers; if they are gone by then, that is said."""
    path = tmp_path / "shrinking.bin"
    data = (FOLDER / "q8_0-flash-seq.bin").read_bytes()
    path.write_bytes(data)
    source = LlamaCppSource(path, **SMOLLM2)
    tensors = source.tensors()
    for _ in range(3):
        next(tensors)
    os.truncate(path, 20000)
    with pytest.raises(InputError, match="the file shrank while it was read"):
        list(tensors)
    with pytest.raises(InputError, match="the file changed while it was read"):
        list(source.tensors())
