"""The registry: codecs by the id that stands in files and on the command line.

A new codec is one module here and one line in ``_FAMILIES``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tqcli.codebook import Codebook, TrellisTable, table_from, trellis_from
from tqcli.codecs import ggml, plain, qjl, tcq, trellis, turbo
from tqcli.codecs.base import Codec, Domain, VectorError
from tqcli.errors import InputError, UsageError
from tqcli.words import suggest

_FAMILIES: tuple[tuple[Mapping[str, Any], Callable[[str], Codec]], ...] = (
    (plain.DTYPES, plain.PlainCodec),
    (ggml.BLOCK_BYTES, ggml.GgmlCodec),
    (turbo.SPECS, turbo.TurboCodec),
    (qjl.SPECS, qjl.QjlCodec),
    (trellis.SPECS, trellis.TrellisCodec),
    (tcq.SPECS, tcq.TcqCodec),
)
_ROTATED = re.compile(r"(?P<base>.+)\+rot(?P<size>[0-9]{1,5})?")


def codec_ids() -> list[str]:
    """Every id, without the ``+rot`` forms of the ggml types."""
    return [name for names, _ in _FAMILIES for name in names]


def codebook_bits() -> list[int]:
    """Bits a value of the codebooks that some codec takes."""
    return sorted({spec.bits for spec in turbo.SPECS.values()})


def codec(
    name: str,
    *,
    codebook: Codebook | TrellisTable | None = None,
    side: str | None = None,
    head_dim: int | None = None,
) -> Codec:
    """Make a codec.

    Parameters
    ----------
    name : str
        An id of :func:`codec_ids`, or a ggml type with ``+rot64`` / ``+rot128`` / ... behind it.
        Plain ``+rot`` takes the size that llama.cpp would use, which needs `side` and `head_dim`.
    codebook : Codebook or TrellisTable, optional
        A table other than the stock one, for the turbo family; the table that the ``_tcq`` types
        cannot do without (:func:`tqcli.codebook.read_trellis`).
    side : {"k", "v"}, optional
    head_dim : int, optional

    Raises
    ------
    UsageError
        If the id is unknown, which suggests the nearest one, or takes no such codebook.

    Examples
    --------
    >>> codec("turbo3").bits_per_value(128)
    3.125
    >>> codec("q4_0+rot", side="v", head_dim=128).id
    'q4_0+rot64'
    """
    if isinstance(codebook, TrellisTable):
        if name not in tcq.SPECS:
            raise UsageError(f"{name}: takes no trellis table; {', '.join(tcq.SPECS)} do")
        return tcq.TcqCodec(name, codebook)
    if codebook is not None:
        if name in tcq.SPECS:
            raise UsageError(f"{name}: takes a trellis table, not codebook {codebook.id}")
        if name not in turbo.SPECS:
            hint = suggest(name, turbo.SPECS, "tq types")
            raise UsageError(f"{name}: takes no codebook, the turbo types do{hint}")
        return turbo.TurboCodec(name, codebook)
    for names, make in _FAMILIES:
        if name in names:
            made = make(name)
            if isinstance(made, tcq.TcqCodec):
                made.require_table()
            return made
    rotated = _ROTATED.fullmatch(name)
    if rotated and rotated["base"] in ggml.BLOCK_BYTES:
        base = ggml.GgmlCodec(rotated["base"])
        if rotated["size"]:
            return ggml.RotatedCodec(base, int(rotated["size"]))
        if side is None or head_dim is None:
            raise UsageError(f"{name}: give the size, as in {name}128, or the side and head_dim")
        return ggml.RotatedCodec(base, ggml.rotation_size(side, head_dim))
    known = [*codec_ids(), *(f"{base}+rot" for base in ggml.BLOCK_BYTES)]
    raise UsageError(f"unknown cache type {name!r}{suggest(name, known, 'tq types')}")


def describe(name: str) -> Codec:
    """A codec for its sizes alone: one that needs a table comes without."""
    return tcq.TcqCodec(name) if name in tcq.SPECS else codec(name)


def from_config(config: Mapping[str, Any], where: str) -> Codec:
    """The codec that a file's metadata describes; `where` names the file in errors."""
    name, table = config.get("id"), config.get("codebook")
    if not isinstance(name, str):
        raise InputError(f"{where}: codec id {name!r}; a string is legal")
    if table is not None and not isinstance(table, dict):
        raise InputError(f"{where}: codec {name!r}: its codebook is no object")
    read = trellis_from if name in tcq.SPECS else _table
    try:
        return codec(name, codebook=None if table is None else read(table, where))
    except (UsageError, InputError) as error:
        raise InputError(f"{where}: {error}") from error


def _table(record: Mapping[str, Any], where: str) -> Codebook:
    return table_from(record)


__all__ = [
    "Codec",
    "Domain",
    "VectorError",
    "codebook_bits",
    "codec",
    "codec_ids",
    "describe",
    "from_config",
]
