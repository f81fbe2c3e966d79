"""The codecs of one tensor: one for all its heads, or one a head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tqcli.codecs.base import Blocks, Codec, Floats, VectorError

# head, and the vectors start to stop - 1 that are of it
HeadRun = tuple[int, int, int]


class HeadCodecs(Sequence[Codec]):
    """Codecs of equal block layout for the heads of one tensor.

    Parameters
    ----------
    codecs : sequence of Codec
        One, or one a head (where a codebook has tables of single heads).
    """

    def __init__(self, codecs: Iterable[Codec]) -> None:
        self._codecs = tuple(codecs)

    def __getitem__(self, index: Any) -> Any:
        """The codec of a head; any head's where there is one for all."""
        return self._codecs[index if len(self._codecs) > 1 else 0]

    def __len__(self) -> int:
        """1, or the number of heads."""
        return len(self._codecs)

    @property
    def id(self) -> str:
        """The id that all of them have."""
        return self._codecs[0].id

    def blocks_shape(self, head_dim: int) -> tuple[int, int]:
        """``(blocks_per_vector, block_bytes)`` of a vector of `head_dim`."""
        return self._codecs[0].blocks_shape(head_dim)

    def bits_per_value(self, head_dim: int) -> float:
        """Stored bits for each of the `head_dim` values, norms and padding included."""
        return self._codecs[0].bits_per_value(head_dim)

    def encode(self, vectors: Floats, runs: Iterable[HeadRun]) -> Blocks:
        """Encode vectors, each with the codec of its head.

        Parameters
        ----------
        vectors : float array, shape (n, head_dim)
        runs : iterable of (head, start, stop)
            Whose vectors they are; together they cover all n in order.

        Returns
        -------
        uint8 array, shape (n, blocks_per_vector, block_bytes)

        Raises
        ------
        VectorError
            With the place among all n.
        """
        if len(self._codecs) == 1:
            return self._codecs[0].encode(vectors)
        shape = self.blocks_shape(vectors.shape[-1])
        blocks = np.empty((len(vectors), *shape), np.uint8)
        for head, start, stop in runs:
            with _moved(start):
                blocks[start:stop] = self._codecs[head].encode(vectors[start:stop])
        return blocks

    def decode(
        self,
        blocks: Blocks,
        head_dim: int,
        runs: Iterable[HeadRun],
        dtype: DTypeLike = np.float32,
    ) -> Floats:
        """Undo :meth:`encode`: an array of `dtype`, shape (n, head_dim)."""
        if len(self._codecs) == 1:
            return self._codecs[0].decode(blocks, head_dim, dtype=dtype)
        vectors = np.empty((len(blocks), head_dim), dtype)
        for head, start, stop in runs:
            with _moved(start):
                part = self._codecs[head].decode(blocks[start:stop], head_dim, dtype=dtype)
                vectors[start:stop] = part
        return vectors


@contextmanager
def _moved(start: int) -> Iterator[None]:
    """Errors about vector i of a part become errors about vector `start` + i of the whole."""
    try:
        yield
    except VectorError as error:
        raise VectorError(start + error.vector, error.dim, error.what) from error
