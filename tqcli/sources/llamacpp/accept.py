"""Will a server take this file? The checks of llama.cpp's loader, in its order and its words.

What a server expects is read off a *probe*, a file that it saved itself: everything that the
loader compares stands in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tqcli.sources.llamacpp.file import MAGICS, SaveFile, Side
from tqcli.sources.llamacpp.types import TypeRules

# What no check looks at, and what happens then.
UNCHECKED = (
    "not checked by the loader: weights, tokenizer, RoPE base and scaling, LoRA adapters, a mean "
    "taken off K, the table of turbo types; a file that differs there is loaded and gives wrong "
    "text"
)
UNCHECKED_ROTATION = (
    "not checked by the loader: version {version} does not record the Hadamard of quantized types"
)


@dataclass(frozen=True)
class Check:
    """One comparison.

    Parameters
    ----------
    check : str
        What is compared.
    file, server : str
        What the file has and what the server expects; the latter is empty where nobody said.
    refusal : str
        The loader's message, empty if the check passes.
    """

    check: str
    file: str
    server: str
    refusal: str = ""


def checks(
    save: SaveFile,
    probe: SaveFile,
    *,
    n_ctx: int | None = None,
    n_vocab: int | None = None,
    fork: str | None = None,
) -> Iterator[Check]:
    """Every check; the first refusal is the one that the server's log shows.

    Parameters
    ----------
    save : SaveFile
    probe : SaveFile
        What the server itself saved.
    n_ctx : int, optional
        Tokens that a slot of the server holds.
    n_vocab : int, optional
        Tokens that the model knows.
    fork : str, optional
        Whose type numbers they are, for names.
    """
    yield _same(
        "magic and version",
        f"{save.kind} {save.version}",
        f"{probe.kind} {probe.version}",
        f"unknown (magic, version) for {'session' if probe.kind == 'session' else 'sequence state'}"
        f" file: {MAGICS[save.kind]:08x}, {save.version:08x}",
    )
    if probe.kind == "session":
        yield _same(
            "architecture",
            str(save.arch),
            str(probe.arch),
            f"wrong model arch: '{save.arch}' instead of '{probe.arch}'",
        )
    yield _same("streams", str(save.stream_count), str(probe.stream_count), "n_stream mismatch")
    yield from _cells(save, probe, n_ctx)
    yield _same(
        "V transposed",
        "yes" if save.v_trans else "no",
        "yes" if probe.v_trans else "no",
        "incompatible V transposition",
    )
    yield _same(
        "layers",
        str(len(save.k)),
        str(len(probe.k)),
        f"mismatched layer count ({len(save.k)} instead of {len(probe.k)})",
    )
    if save.rotation is not None and probe.rotation is not None:
        for word, ours, theirs in zip(("key", "value"), save.rotation, probe.rotation, strict=True):
            yield _same(
                f"rotation of {word}s",
                str(ours),
                str(theirs),
                f"incompatible {word} rotation ({ours} instead of {theirs})",
            )
    yield from _rows(save, probe, "k", TypeRules(fork))
    if save.v_trans == probe.v_trans:  # else rows and elements would be compared
        yield from _rows(save, probe, "v", TypeRules(fork))
    yield from _tokens(save, n_ctx, n_vocab)


def _same(name: str, file: str, server: str, refusal: str) -> Check:
    return Check(name, file, server, "" if file == server else refusal)


def _cells(save: SaveFile, probe: SaveFile, n_ctx: int | None) -> Iterator[Check]:
    yield _same(
        "M-RoPE bytes of a cell",
        str(save.cell_extra),
        str(probe.cell_extra),
        "the cells are read at the wrong places",
    )
    cells = sum(stream.cells for stream in save.streams)
    short = n_ctx is not None and cells > n_ctx
    yield Check(
        "cells",
        str(cells),
        "" if n_ctx is None else f"at most {n_ctx}",
        f"not enough cells in kv cache to restore state ({cells} > {n_ctx})" if short else "",
    )
    if save.kind == "sequence":
        owners = {int(n) for s in save.streams for n in np.unique(np.diff(s.seq_start))}
        yield Check(
            "sequences of a cell",
            ", ".join(map(str, sorted(owners))) or "1",
            "1",
            "" if owners <= {1} else "invalid seq_id-agnostic kv cell",
        )


def _rows(save: SaveFile, probe: SaveFile, side: Side, rules: TypeRules) -> Iterator[Check]:
    """Types and row sizes: a line each for all layers, or for the first that differs."""
    word = "key" if side == "k" else "value"
    pairs = list(zip(save.rows(side), probe.rows(side), strict=False))
    if not pairs:
        return
    # A transposed V has its elements and their number instead of a row.
    sizes = "element size" if pairs[0][1].columns else "row size"
    for name, key in ((f"{word} type", "type"), (f"{word} {sizes}", "row_bytes")):
        values = [(getattr(ours, key), getattr(theirs, key)) for ours, theirs in pairs]
        other = next((i for i, (a, b) in enumerate(values) if a != b), None)
        ours, theirs = values[other or 0]
        refusal = "" if other is None else f"mismatched {name} ({theirs} != {ours}, layer {other})"
        show = rules.name if key == "type" else str
        where = "" if other is None else f" of layer {other}"
        yield Check(f"{name}{where}", show(ours), show(theirs), refusal)
    widths = [(ours.columns, theirs.columns) for ours, theirs in pairs]
    if any(theirs for _, theirs in widths):
        other = next((i for i, (a, b) in enumerate(widths) if a != b), None)
        ours, theirs = widths[other or 0]
        refusal = f"mismatched GQA embedding size ({theirs} != {ours}, layer {other})"
        yield Check("value count", str(ours), str(theirs), "" if other is None else refusal)


def _tokens(save: SaveFile, n_ctx: int | None, n_vocab: int | None) -> Iterator[Check]:
    count = len(save.tokens)
    long = n_ctx is not None and count > n_ctx
    yield Check(
        "tokens",
        str(count),
        "" if n_ctx is None else f"at most {n_ctx}",
        "Restored prompt does not fit in the slot context" if long else "",
    )
    if not save.media and count:
        low, high = int(save.tokens.min()), int(save.tokens.max())
        wrong = low < 0 or (n_vocab is not None and high >= n_vocab)
        yield Check(
            "token ids",
            f"{low} to {high}",
            "" if n_vocab is None else f"0 to {n_vocab - 1}",
            "Invalid tokens in slot save file" if wrong else "",
        )
    if save.media:
        yield Check("media chunks", str(save.media), "the same model with its projector")
