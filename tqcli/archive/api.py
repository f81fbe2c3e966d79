"""Arrays to an archive and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tqcli.archive.cache import Chunk, Encoder, Stretch, decode_chunk, unpack_choice
from tqcli.archive.code import Code
from tqcli.errors import InputError, UsageError, input_error
from tqcli.rope import NO_ROPE, Rope, apply_rope, remove_rope

KEEP_FIRST = 4  # tokens that every query attends to: an error in them is everywhere

Pair = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Archive:
    """A cache as it is stored.

    Parameters
    ----------
    tokens : int
    first : sequence of (k, v)
        Of each layer the first tokens, float16 ``(num_kv_heads, tokens, dim)``, K after RoPE.
    stretches : sequence of Stretch
        All the other tokens, in order.
    """

    tokens: int
    first: Sequence[Pair]
    stretches: Sequence[Stretch]

    @property
    def nbytes(self) -> int:
        """Bytes of first tokens, tables and chunks; the side data is apart."""
        kept = sum(x.nbytes for pair in self.first for x in pair)
        return kept + sum(stretch.nbytes for stretch in self.stretches)

    def chunks(self) -> Iterator[tuple[Stretch, Chunk]]:
        """All chunks in order, each with its stretch."""
        for stretch in self.stretches:
            for part in stretch.chunks:
                yield stretch, part


def encode(
    layers: Sequence[Pair],
    code: Code,
    *,
    positions: NDArray[Any] | None = None,
    ropes: Sequence[Rope] | None = None,
    keep_first: int = KEEP_FIRST,
) -> Archive:
    """Archive K and V of all layers.

    Parameters
    ----------
    layers : sequence of (k, v)
        Float arrays ``(num_kv_heads, tokens, dim)``, one pair a layer, all with the same tokens.
    code : Code
        The side data, from :func:`tqcli.archive.derive.derive` or
        :func:`tqcli.archive.plain.plain_code`.
    positions : int array, shape (tokens,), optional
        Default: from 0 on.
    ropes : sequence of Rope, optional
        How K of each layer was turned; default: K is before RoPE.
    keep_first : int
        Tokens that are stored as float16.

    Raises
    ------
    InputError
        If the layers are not those of the code, differ in tokens, or a value cannot be stored.
    """
    tokens = _tokens(layers, code)
    places = _positions(positions, tokens)
    rules = _rules(ropes, code)
    kept = min(keep_first, tokens)

    def read(layer: int, start: int, stop: int) -> Pair:
        k, v = (x[:, start:stop] for x in layers[layer])
        return remove_rope(k, places[start:stop], rules[layer]), v.astype(np.float32)

    first = [(_float16(k[:, :kept], "K"), _float16(v[:, :kept], "V")) for k, v in layers]
    return Archive(tokens, first, list(Encoder(code).stretches(read, kept, tokens)))


def decode(
    archive: Archive,
    code: Code,
    *,
    positions: NDArray[Any] | None = None,
    ropes: Sequence[Rope] | None = None,
    start: int = 0,
    stop: int | None = None,
    dtype: DTypeLike = np.float16,
) -> list[Pair]:
    """Read an archive, or some of its tokens.

    Parameters
    ----------
    archive : Archive
    code : Code
        The one that it was made with.
    positions, ropes
        As it was encoded.
    start, stop : int
        Tokens; only the chunks that hold them are decoded.
    dtype : float type
        Of the result; values are rounded to float32 first.

    Returns
    -------
    list of (k, v)
        Arrays ``(num_kv_heads, stop - start, dim)``, one pair a layer, K after RoPE.

    Raises
    ------
    UsageError
        If there are no such tokens.
    InputError
        If a chunk is damaged, or of another code.
    """
    stop = archive.tokens if stop is None else stop
    if not 0 <= start <= stop <= archive.tokens:
        raise UsageError(f"tokens {start} to {stop}; 0 to {archive.tokens} are there")
    places, rules = _positions(positions, archive.tokens), _rules(ropes, code)
    out = [
        tuple(np.empty((x.shape[0], stop - start, x.shape[2]), dtype) for x in pair)
        for pair in archive.first
    ]
    kept = archive.first[0][0].shape[1]
    for pair, first in zip(out, archive.first, strict=True):
        for into, x in zip(pair, first, strict=True):
            into[:, : max(kept - start, 0)] = x[:, start:stop]
    for stretch, part in archive.chunks():
        end = part.start + part.tokens
        if end <= start or part.start >= stop:
            continue
        a, b = max(start, part.start), min(stop, end)
        choice = unpack_choice(stretch.tables, code.expected)
        for layer, k, v in decode_chunk(code, part, choice):
            turned = apply_rope(k, places[part.start : end], rules[layer])
            for into, x in zip(out[layer], (turned, v), strict=True):
                into[:, a - start : b - start] = x[:, a - part.start : b - part.start]
    return [(k, v) for k, v in out]


def _tokens(layers: Sequence[Pair], code: Code) -> int:
    if len(layers) != len(code.layers):
        raise input_error("layers", f"{len(layers)}", f"{len(code.layers)}, as the code has")
    tokens = layers[0][0].shape[1] if layers[0][0].ndim == 3 else -1
    for i, (pair, own) in enumerate(zip(layers, code.layers, strict=True)):
        for x, mean in zip(pair, (own.k_mean, own.v_mean), strict=True):
            legal = (len(mean), tokens, mean.shape[1])
            if x.shape != legal:
                raise input_error(f"layers.{i}", f"shape {x.shape}", f"{legal}, as the code has")
    return tokens


def _positions(positions: NDArray[Any] | None, tokens: int) -> NDArray[Any]:
    if positions is None:
        return np.arange(tokens)
    if positions.shape != (tokens,):
        raise input_error("positions", f"shape {positions.shape}", f"({tokens},), one a token")
    return positions


def _rules(ropes: Sequence[Rope] | None, code: Code) -> Sequence[Rope]:
    if ropes is None:
        return [Rope(NO_ROPE)] * len(code.layers)
    if len(ropes) != len(code.layers):
        raise input_error("ropes", f"{len(ropes)}", f"{len(code.layers)}, one a layer")
    return ropes


def _float16(x: NDArray[Any], side: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        out = x.astype(np.float16)
    if not np.isfinite(out).all():
        raise InputError(f"{side} of the first tokens: beyond float16, NaN or Inf")
    return out
