"""Codebooks fitted to the K and V of dumps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tqcli import rotation
from tqcli.codebook import Codebook, CodebookSet, Histogram, distortion, fit, lloyd_max
from tqcli.codecs import codebook_bits
from tqcli.errors import InputError, UsageError
from tqcli.kv.container import PIECE_BYTES
from tqcli.kv.dump import Dump, KVTensor
from tqcli.pipeline.pieces import (
    Cleaner,
    Nonfinite,
    Progress,
    by_head,
    no_progress,
    require_finite,
)
from tqcli.version import __version__

Side = Literal["k", "v", "kv"]
Per = Literal["pooled", "layer", "head"]
Weight = Literal["vector", "energy"]
# Every fifth token is held out: the figures that a table is judged by come from those alone.
HOLDOUT = 5
_PIECE_BYTES = PIECE_BYTES // 8


@dataclass(frozen=True)
class FitOptions:
    """How to fit.

    Parameters
    ----------
    bits : int
        Of :func:`tqcli.codecs.codebook_bits`: no cache type takes another codebook.
    side : {"k", "v", "kv"}
        Which tensors count; "kv" makes tables for both sides together.
    per : {"pooled", "layer", "head"}
        One table, one a layer (and side), or one a head.
    weight : {"vector", "energy"}
        Every vector counts alike, or by its squared norm (then the table minimises the error
        energy of the tensor).
    symmetric : bool
    group : {64, 128}
        Values rotated together by the format that will use the table.
    """

    bits: int = 3
    side: Side = "kv"
    per: Per = "pooled"
    weight: Weight = "vector"
    symmetric: bool = True
    group: int = 128

    def __post_init__(self) -> None:
        """Refuse what is not in the lists above."""
        for name, value, legal in (
            ("bits", self.bits, codebook_bits()),
            ("side", self.side, get_args(Side)),
            ("per", self.per, get_args(Per)),
            ("weight", self.weight, get_args(Weight)),
            ("group", self.group, (64, 128)),
        ):
            if value not in legal:
                raise UsageError(f"--{name} {value}; {', '.join(map(str, legal))} are legal")


@dataclass(eq=False)
class _Split:
    """Histograms of the tokens that a table is fitted to, and of those that judge it."""

    train: Histogram = field(default_factory=Histogram)
    held_out: Histogram = field(default_factory=Histogram)


def fit_codebook(
    dumps: Iterable[Dump],
    options: FitOptions,
    name: str,
    *,
    nonfinite: Nonfinite = "error",
    progress: Progress = no_progress,
) -> tuple[CodebookSet, list[dict[str, Any]]]:
    """Fit Lloyd-Max codebooks to rotated unit vectors of K and V.

    Parameters
    ----------
    dumps : iterable of Dump
        Read one after the other, piece by piece; histograms merge.
    options : FitOptions
    name : str
        Id of the result.
    nonfinite, progress
        As in :func:`tqcli.pipeline.quantize.quantize`.

    Returns
    -------
    (CodebookSet, list of dict)
        The tables, and a row for each: its distortion on the tokens it was fitted to, on the
        held-out ones, and there that of the exact Gaussian table.

    Raises
    ------
    InputError
        On values that are not finite, or too few to fit.
    """
    cleaner = Cleaner(nonfinite)
    splits: dict[str, _Split] = {}
    inputs = []
    for dump in dumps:
        if dump.domain != "original":
            raise InputError(f"{dump.path}: {dump.domain} domain; fit on an original dump")
        inputs.append(dump.fingerprint())
        for tensor in dump.kv():
            if tensor.side in options.side:
                _count(tensor, options, cleaner, splits, progress)
    if not splits:
        raise InputError(f"no {options.side} tensors in the dumps; nothing to fit")
    reference, _ = lloyd_max("gaussian", options.bits)
    tables: dict[str, Codebook] = {}
    rows = []
    for key, split in splits.items():
        label = name if key == "*" else f"{name}:{key}"
        book = fit(split.train, options.bits, options.group, label, symmetric=options.symmetric)
        tables[key] = book
        rows.append(_row(key, split, book, reference))
    provenance = {
        "made_by": f"tq {__version__} fit-codebook",
        "dumps": inputs,
        "options": {k: getattr(options, k) for k in FitOptions.__dataclass_fields__},
        "held_out": f"every {HOLDOUT}th token",
        "zeroed_values": cleaner.zeroed,
        "skipped_vectors": cleaner.skipped,
        "distortion": {row["table"]: row["distortion_held_out"] for row in rows},
    }
    return CodebookSet(name, tables, provenance), rows


def _row(key: str, split: _Split, book: Codebook, reference: Codebook) -> dict[str, Any]:
    held = split.held_out if split.held_out.total else split.train
    own, other = distortion(held, book), distortion(held, reference)
    return {
        "table": key,
        "weight": split.train.total,
        "distortion_train": distortion(split.train, book),
        "distortion_held_out": own,
        "distortion_gaussian": other,
        "gain": 1 - own / other if other else None,
    }


def _count(
    tensor: KVTensor,
    options: FitOptions,
    cleaner: Cleaner,
    splits: dict[str, _Split],
    progress: Progress,
) -> None:
    _, heads, seq_len, _ = tensor.shape
    for first, piece in tensor.stored.pieces(limit=_PIECE_BYTES):
        cleaned, keep = cleaner.clean(piece)
        require_finite(tensor, first, cleaned)
        for row, at, part in by_head(first, cleaned, heads, seq_len):
            tokens = np.arange(at, at + part.shape[0]) % seq_len
            if keep is not None:
                used = keep[at - first : at - first + part.shape[0]]
                part, tokens = part[used], tokens[used]
            split = splits.setdefault(_key(tensor, row % heads, options), _Split())
            held = tokens % HOLDOUT == HOLDOUT - 1
            add_vectors(split.train, part[~held], options)
            add_vectors(split.held_out, part[held], options)
        progress(piece.nbytes)


def _key(tensor: KVTensor, head: int, options: FitOptions) -> str:
    if options.per == "pooled":
        return "*" if options.side == "kv" else options.side
    place = f"layers.{tensor.layer}" + ("" if options.side == "kv" else f".{options.side}")
    return place if options.per == "layer" else f"{place}.heads.{head}"


def add_vectors(histogram: Histogram, part: NDArray[Any], options: FitOptions) -> None:
    """Count vectors ``(n, head_dim)`` as rotated unit groups, in standard deviations."""
    if not part.size:
        return
    # Padded and cut as the codec does: each group has a norm of its own.
    padded = np.pad(part.astype(np.float64), ((0, 0), (0, -part.shape[1] % options.group)))
    x = padded.reshape(-1, options.group)
    energy = np.einsum("ij,ij->i", x, x)
    alive = energy > 0
    x, energy = x[alive], energy[alive]
    unit = (x / np.sqrt(energy)[:, None]).astype(np.float32)
    y = rotation.rotate(unit, options.group) * np.float32(np.sqrt(options.group))
    weights = None
    if options.weight == "energy":
        weights = np.broadcast_to(energy.astype(np.float32)[:, None], y.shape)
    histogram.add(y, weights)
