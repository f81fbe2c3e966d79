"""One tensor beside what several candidates make of it: every piece is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.kernels.stats import ERROR, SIGNAL
from tqcli.kv.container import PIECE_BYTES
from tqcli.kv.dump import KVTensor
from tqcli.metrics import Stats
from tqcli.pipeline.decoded import Source
from tqcli.pipeline.pieces import Cleaner, Progress, by_head, require_finite

# A piece of float16, the same decoded to float32 and its blocks stay in a core's cache.
_PIECE_BYTES = PIECE_BYTES // 2


@dataclass(eq=False)
class Measured:
    """What became of one tensor.

    Attributes
    ----------
    stats : dict
        By head, or of all heads under None.
    worse : int
        Vectors that the first source decodes with less error.
    """

    stats: dict[int | None, Stats] = field(default_factory=dict)
    worse: int = 0


def measure(
    tensor: KVTensor,
    sources: Sequence[Source],
    cleaner: Cleaner,
    progress: Progress,
    *,
    per_head: bool = False,
) -> list[Measured]:
    """Measure a tensor against each source.

    Parameters
    ----------
    tensor : KVTensor
    sources : sequence of Source
    cleaner : Cleaner
    progress : callable
        Called with the bytes of each piece, times the number of sources.
    per_head : bool
        Keep the figures of each head apart.

    Raises
    ------
    InputError
        On a value that is not finite.
    """
    size = tensor.shape[3] * tensor.dtype.itemsize
    count = max(_PIECE_BYTES // size, 1)
    found = [Measured() for _ in sources]
    theirs = (source.pieces(count) for source in sources)
    pieces = zip(tensor.stored.pieces(limit=count * size), *theirs, strict=True)
    for (first, piece), *decoders in pieces:
        x, keep = cleaner.clean(piece)
        best: NDArray[np.float64] | None = None
        for one, decode in zip(found, decoders, strict=True):
            decoded = decode(first, x, keep is not None)
            rows = _add(one, tensor, first, x, decoded, keep, per_head)
            if not np.isfinite(rows[:, ERROR]).all():  # what is to blame says so by itself
                require_finite(tensor, first, x)
                decode(first, x, True)
            if len(found) > 1:
                relative = _relative(rows)
                best = relative if best is None else best
                one.worse += int(np.count_nonzero(relative > best))
        progress(piece.nbytes * len(found))
    return found


def _add(
    one: Measured,
    tensor: KVTensor,
    first: int,
    x: NDArray[Any],
    decoded: NDArray[Any],
    keep: NDArray[np.bool_] | None,
    per_head: bool,
) -> NDArray[np.float64]:
    _, heads, seq_len, _ = tensor.shape
    rows = []
    for row, at, part in by_head(first, x, heads, seq_len):
        window = slice(at - first, at - first + part.shape[0])
        head = row % heads if per_head else None
        if head not in one.stats:
            one.stats[head] = Stats(offset=tensor.side == "k")
        found = one.stats[head].add(
            part,
            decoded[window],
            row=(tensor.layer, row),
            token=at - row * seq_len,
            keep=None if keep is None else keep[window],
        )
        rows.append(found)
    return np.concatenate(rows)


def _relative(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Error energy over signal energy of every vector; 0 where there is no error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(rows[:, ERROR] == 0, 0.0, rows[:, ERROR] / rows[:, SIGNAL])
