"""What can be said of a save file before its rows are read: provenance and oddities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.sources.base import tokens_sha256
from tqcli.sources.llamacpp.archs import HALVES, INTERLEAVED
from tqcli.sources.llamacpp.envelope import to_json
from tqcli.sources.llamacpp.file import SaveFile, runs
from tqcli.sources.llamacpp.model import Model
from tqcli.sources.llamacpp.parts import Part
from tqcli.sources.llamacpp.plan import Planner
from tqcli.sources.llamacpp.types import FLOAT_TYPES


def token_ids(save: SaveFile, parts: Sequence[Part]) -> NDArray[np.int32] | None:
    """Token of every cell, shape ``(1, seq_len)``; None where the file does not tell.

    It lists the tokens of one sequence by position. Programs may list one more than they
    evaluated, and which of several sequences is meant is theirs to know.
    """
    if len(parts) != 1 or len(save.sequences()) != 1 or save.cell_extra or save.media:
        return None
    positions = parts[0].positions
    if not len(positions) or positions[-1] >= len(save.tokens):
        return None
    return save.tokens[positions][None]


def provenance(planner: Planner, parts: Sequence[Part], layers: Sequence[int]) -> dict[str, Any]:
    """Where the tensors come from, as JSON values.

    ``k_interleaved`` is how K lies in the file; decoded tensors are in the model's own order, and
    ``rope`` describes those. ``envelope`` is the file without its values, from which
    :mod:`~tqcli.sources.llamacpp.target` makes one again.
    """
    save, header = planner.save, planner.model.header
    ids = token_ids(save, parts)
    return {
        "kind": f"llama.cpp {save.kind}",
        "model": header.name if header else planner.arch,
        "revision": None,
        "architecture": planner.arch,
        "config_sha256": header.config_sha256 if header else None,
        "tokens_sha256": None if ids is None else tokens_sha256(ids[0]),
        "num_tokens": sum(part.cells.size for part in parts),
        "sequence_lengths": [part.cells.size for part in parts],
        "positions": [[list(run) for run in runs(part.positions)] for part in parts],
        "k": "after RoPE",
        "rope": [{"layers": list(layers), **planner.model.rope(planner.arch).to_json()}],
        "gqa_ratio": gqa_ratio(planner.model),
        "layer_kinds": {str(layer): "full_attention" for layer in layers},
        "file_version": save.version,
        "fork": planner.rules.fork,
        "layouts": list(planner.rules.layouts) or None,
        "k_interleaved": planner.arch in INTERLEAVED if planner.arch else None,
        "rotation": rotation_record(planner),
        "sequences": [part.sequence for part in parts],
        "v_transposed": save.v_trans,
        "envelope": to_json(save, parts),
    }


def rotation_record(planner: Planner) -> dict[str, Any]:
    """How the Hadamard rotation became known."""
    if planner.rotation != "auto":
        return {"from": "option", "k": planner.rotation, "v": planner.rotation}
    if planner.save.rotation is None:
        return {"from": "default"}
    return {"from": "file", "k": planner.save.rotation[0], "v": planner.save.rotation[1]}


def gqa_ratio(model: Model) -> int | None:
    """Query heads per K/V head, if it is one number."""
    if model.header is None:
        return None
    pairs = zip(model.header.heads, model.header.kv_heads, strict=True)
    ratios = {heads // kv_heads for heads, kv_heads in pairs if kv_heads}
    return ratios.pop() if len(ratios) == 1 else None


def notes(planner: Planner, parts: Sequence[Part]) -> Iterator[str]:
    """One sentence for everything that is missing or odd."""
    save = planner.save
    if not parts:
        yield "the cache is empty"
        return
    if len(parts) > 1:
        alike = len({part.cells.size for part in parts}) == 1
        how = "come as a batch" if alike else "follow each other along the token axis"
        yield f"{len(parts)} sequences {how}"
    elif token_ids(save, parts) is None:
        yield "the token ids of the cells are not known"
    for part in parts:
        yield from _cell_notes(save, part)
    unused = sum(int((np.diff(stream.seq_start) == 0).sum()) for stream in save.streams)
    if unused:
        yield f"{unused} cells belong to no sequence and are left out"
    if save.media:
        yield f"{save.media} media chunks among the tokens; their cells have no token id"
    if save.cell_extra:
        yield f"M-RoPE cells ({save.cell_extra} extra bytes): positions may repeat within an image"
    if planner.arch is None:
        yield (
            "the architecture is unknown (give --model or --arch): K stays in the file's order, "
            "which for llama models interleaves the halves of each head"
        )
    elif planner.arch not in INTERLEAVED | HALVES:
        yield f"architecture {planner.arch}: K stays in the file's order"
    coded = {planner.rules.name(rows.type) for rows in (*save.k, *save.v)} - set(FLOAT_TYPES)
    if coded and planner.rotation == "auto" and save.rotation is None:
        names = ", ".join(sorted(coded))
        if planner.rules.fork is None:
            yield (
                f"version {save.version} does not record the Hadamard rotation of {names}; "
                "llama.cpp's default is assumed (LLAMA_ATTN_ROT_DISABLE=1 would have turned it off)"
            )
        else:
            yield f"{names} of {planner.rules.fork}: taken as written without llama.cpp's rotation"


def _cell_notes(save: SaveFile, part: Part) -> Iterator[str]:
    name, count = f"sequence {part.sequence}", part.cells.size
    if len(save.tokens) != count:
        yield f"{name} has {count} cells and the file lists {len(save.tokens)} tokens"
    if (np.diff(part.cells) < 0).any():
        yield f"{name}: cells were out of order and are sorted by position"
    blocks = list(runs(part.positions))
    if len(blocks) > 1 or blocks[0][0] != 0:
        yield f"{name}: positions run from {part.positions[0]} to {part.positions[-1]} with gaps"
