"""Decide what a save file that is to be written says, and how its tensors are stored in it.

It is modelled on a file that the target server itself saved (a *probe*), on the envelope of the
file that the tensors came from, or on a version of llama.cpp alone. Cells and tokens are those of
the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqcli.codecs import Codec
from tqcli.errors import InputError, UsageError, input_error
from tqcli.sources.llamacpp.contents import Contents
from tqcli.sources.llamacpp.file import I32, RECORDS_ROTATION, Kind, SaveFile, Side, Stream
from tqcli.sources.llamacpp.parts import Part, batch_shape, parts_of
from tqcli.sources.llamacpp.rows import Plan
from tqcli.sources.llamacpp.template import (
    Codecs,
    rotation_wanted,
    rows_of,
    template_of,
    wanted_codecs,
)
from tqcli.sources.llamacpp.tokens import MARK, pack_tokens
from tqcli.sources.llamacpp.wish import Wish

SIDES: tuple[Side, Side] = ("k", "v")


@dataclass(frozen=True, eq=False)
class Target:
    """A save file that is to be written, and how each tensor is stored in it.

    ``layers`` are the numbers in the model of the file's layers.
    """

    save: SaveFile
    plans: Mapping[Side, tuple[Plan, ...]]
    parts: tuple[Part, ...]
    layers: tuple[int, ...]

    @property
    def batch_shape(self) -> tuple[int, int]:
        """``(batch, seq_len)`` of the tensors."""
        return batch_shape(self.parts)

    def summary(self) -> dict[str, Any]:
        """What was decided, as JSON values."""
        kinds = {side: sorted({plan.codec.id for plan in self.plans[side]}) for side in SIDES}
        return {
            "kind": self.save.kind,
            "version": self.save.version,
            "type_k": " ".join(kinds["k"]),
            "type_v": " ".join(kinds["v"]),
            "rotation": [self.plans[side][0].rotation for side in SIDES],
            "v_transposed": self.save.v_trans,
            "k_interleaved": self.plans["k"][0].interleaved,
            "cells": sum(stream.cells for stream in self.save.streams),
            "tokens": len(self.save.tokens),
        }


def plan_target(path: Path, contents: Contents, source: Mapping[str, Any], wish: Wish) -> Target:
    """Decide everything, before anything is written.

    Parameters
    ----------
    path : path
        Of the file that is to be written.
    contents : Contents
        What the tensors bring.
    source : mapping
        Their provenance: how a save file behind them was read.
    wish : Wish

    Raises
    ------
    InputError
        Tensors and probe do not fit each other, or no engine could load the file.
    UsageError
        A wish cannot be granted, or one is missing.
    """
    template = template_of(contents, source, wish)
    model = None if template is None else template.save
    if model is None and wish.engine_version is None:
        raise UsageError(
            f"{contents.where}: comes from no save file; give --like PROBE.bin, which the target "
            "server saved, or --engine-version"
        )
    kind: Kind = "sequence" if model is None else model.kind
    version = 0 if model is None else model.version
    kind, version = wish.version(kind) or (kind, version)
    recorded = version >= RECORDS_ROTATION[kind]
    v_trans = wish.flash_attention is False
    if wish.flash_attention is None and model is not None:
        v_trans = model.v_trans
    shapes = contents.shapes
    rules = wish.rules if wish.rules.fork or template is None else template.rules
    codecs: dict[Side, Codecs] = {}
    sizes: dict[Side, int] = {}
    for side in SIDES:
        if template is not None and wish.type(side) is None:
            codecs[side], sizes[side] = template.storage(side)
        else:
            codecs[side] = wanted_codecs(wish.type(side) or "f16", rules, len(shapes))
        if side not in sizes or (wish.like is None and wish.rotation != "auto"):
            sizes[side] = rotation_wanted(side, codecs[side], shapes, wish, version, recorded)
    streams, count = _streams(contents, wish.like)
    words, tokens, media = _words(kind, contents, wish.like)
    save = SaveFile(
        path=path,
        kind=kind,
        version=version,
        arch=_arch(contents, model) if kind == "session" else None,
        words=words,
        tokens=tokens,
        media=media,
        cell_extra=4 * streams[0].extra.shape[1],
        stream_count=count,
        streams=streams,
        v_trans=v_trans,
        rotation=(sizes["k"], sizes["v"]) if recorded else None,
        k=rows_of("k", codecs["k"], shapes, rules, transposed=False),
        v=rows_of("v", codecs["v"], shapes, rules, transposed=v_trans),
    )
    parts = parts_of(save)
    if kind == "sequence" and len(parts) != 1:
        raise input_error(
            contents.where,
            f"{len(parts)} sequences",
            "a sequence file holds one",
            "dump the one with --seq",
        )
    plans = {
        side: tuple(
            _plan(contents, side, one, i, sizes[side]) for i, one in enumerate(codecs[side])
        )
        for side in SIDES
    }
    return Target(save, plans, parts, contents.layers)


def _plan(contents: Contents, side: Side, codec: Codec, index: int, size: int) -> Plan:
    shape = contents.shapes[index]
    head_dim = shape.head_dim(side)
    if size and head_dim % size:
        raise UsageError(f"rotation of {size}: it must divide head_dim {head_dim} of {side}")
    return Plan(codec, shape.heads, head_dim, size, contents.interleaved and side == "k")


def _streams(contents: Contents, probe: SaveFile | None) -> tuple[tuple[Stream, ...], int]:
    """Cells by stream, and the number of streams."""
    streams, count = contents.streams, contents.stream_count
    if probe is None:
        return streams, count
    if streams[0].extra.shape[1] * 4 != probe.cell_extra:
        raise input_error(
            probe.path,
            f"cells with {probe.cell_extra} extra bytes",
            f"those of {contents.where} have {4 * streams[0].extra.shape[1]}",
            "save a probe from the same model",
        )
    if len(streams) == 1:
        index = probe.streams[0].index
        return (replace(streams[0], index=index),), probe.stream_count
    if count != probe.stream_count:
        raise input_error(
            probe.path, f"{probe.stream_count} streams", f"{contents.where} has {count}"
        )
    return streams, count


def _words(kind: Kind, contents: Contents, probe: SaveFile | None) -> tuple[I32, I32, int]:
    """Words in front of the cache, the tokens in them, and the number of media chunks."""
    envelope, tokens = contents.envelope, contents.tokens
    if tokens is None:
        raise input_error(
            contents.where,
            "the token ids are not known",
            "an engine finds a restored prompt by its tokens",
            "dump from a source that has token_ids",
        )
    media = 0 if envelope is None else envelope.media
    style = probe or envelope
    packed = kind == "sequence" and style is not None and _is_packed(style)
    if envelope is not None and _is_packed(envelope) == packed:
        return envelope.words, tokens, media
    if media:
        raise input_error(
            contents.where, f"{media} media chunks among the tokens", "a plain list holds none"
        )
    return (pack_tokens(tokens) if packed else tokens), tokens, 0


def _is_packed(save: SaveFile) -> bool:
    return save.kind == "sequence" and save.words.size > 0 and save.words[0] == MARK


def _arch(contents: Contents, model: SaveFile | None) -> str:
    """Architecture that a session file names."""
    said = None if model is None else model.arch
    name = said or contents.arch
    if name is None:
        raise UsageError(f"{contents.where}: a session file names the architecture; give --arch")
    if contents.arch not in (None, name):
        raise InputError(f"{contents.where}: of a {contents.arch} model; the file says {name}")
    return name
