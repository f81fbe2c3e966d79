"""Write archives and their side data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tqcli.archive.cache import Stretch
from tqcli.archive.code import Code
from tqcli.kv.archive import CODE_SCHEMA, EMBEDDED, SCHEMA, CodeFile, Shape
from tqcli.kv.atomic import require_new, scratch
from tqcli.kv.container import PIECE_BYTES, ContainerWriter, Spec

Pair = tuple[NDArray[Any], NDArray[Any]]
_U8 = np.dtype(np.uint8)


@dataclass(frozen=True)
class Contents:
    """What an archive says of itself.

    Parameters
    ----------
    source : mapping
        Provenance, as in dumps.
    layers : sequence of int
        Numbers of the layers.
    tokens : int
        Of the whole cache.
    dtype : str
        Of the values that were archived.
    extras : mapping of str to int32 array
        ``token_ids`` and ``positions``, as far as known.
    """

    source: Mapping[str, Any]
    layers: Sequence[int]
    tokens: int
    dtype: str
    extras: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)


def write_code(
    path: str | os.PathLike[str], code: Code, about: Mapping[str, Any], *, force: bool = False
) -> str:
    """Write side data; its fingerprint.

    Parameters
    ----------
    path : str or path
        ``*.safetensors``.
    code : Code
    about : mapping
        More metadata: the model, the calibration.
    force : bool
        Replace an existing file.
    """
    tensors = code.tensors()
    record = {**about, "schema": CODE_SCHEMA, "code": code.record(), "tensors": {}}
    with ContainerWriter(path, _specs(tensors), record, force=force) as writer:
        for name, array in tensors.items():
            writer.write(name, [array])
    with CodeFile(path) as made:
        return made.fingerprint


def write_archive(
    path: str | os.PathLike[str],
    contents: Contents,
    first: Sequence[Pair],
    stretches: Iterable[Stretch],
    code: Code,
    fingerprint: str | None,
    version: str,
    *,
    force: bool = False,
) -> None:
    """Write an archive; the coded bytes wait in a temporary file until their sizes are known.

    Parameters
    ----------
    path : str or path
        ``*.safetensors``.
    contents : Contents
    first : sequence of (k, v)
        Float16 arrays ``(num_kv_heads, tokens, dim)`` of the first tokens, one pair a layer.
    stretches : iterable of Stretch
        Of all the other tokens, in order; taken one by one.
    code : Code
    fingerprint : str or None
        Of the file of `code`; None writes it into the archive.
    version : str
        Of tq.
    force : bool
        Replace an existing file.
    """
    rows = np.concatenate(
        [x.transpose(1, 0, 2).reshape(x.shape[1], -1) for pair in first for x in pair], axis=1
    ).astype(np.float16)
    shapes: list[Shape] = [(k.shape[0], k.shape[2], v.shape[2]) for k, v in first]
    ready: dict[str, NDArray[Any]] = {**contents.extras, "first": rows}
    if fingerprint is None:
        ready |= {EMBEDDED + name: array for name, array in code.tensors().items()}
    require_new(path, force=force)
    with ExitStack() as stack:
        spool, _ = stack.enter_context(scratch(Path(os.fspath(path))))
        places: list[Shape] = []
        sizes: dict[str, int] = {}
        for number, stretch in enumerate(stretches):
            _put(spool, sizes, f"tables.{number}", stretch.tables)
            for part in stretch.chunks:
                _put(spool, sizes, f"chunks.{len(places)}", part.payload)
                places.append((part.start, part.tokens, number))
        record = {
            "schema": SCHEMA,
            "tq": version,
            "source": dict(contents.source),
            "layers": list(contents.layers),
            "shapes": shapes,
            "tokens": contents.tokens,
            "keep_first": len(rows),
            "dtype": contents.dtype,
            "code": {**code.record(), "fingerprint": fingerprint},
            "chunks": places,
            "tensors": {},
        }
        specs = [*_specs(ready), *((name, _U8, (size,)) for name, size in sizes.items())]
        with ContainerWriter(path, specs, record, force=force) as writer:
            for name, array in ready.items():
                writer.write(name, [array])
            spool.seek(0)
            for name, size in sizes.items():
                writer.write(name, _take(spool, size))


def _specs(tensors: Mapping[str, NDArray[Any]]) -> list[Spec]:
    return [(name, array.dtype, array.shape) for name, array in tensors.items()]


def _put(spool: IO[bytes], sizes: dict[str, int], name: str, data: NDArray[np.uint8]) -> None:
    spool.write(np.ascontiguousarray(data).data)
    sizes[name] = data.nbytes


def _take(spool: IO[bytes], size: int) -> Iterator[NDArray[np.uint8]]:
    while size:
        piece = np.frombuffer(spool.read(min(size, PIECE_BYTES)), np.uint8)
        size -= len(piece)
        yield piece
