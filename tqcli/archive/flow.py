"""The code layer by layer, as a model writes its cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.archive.cache import CHUNK, STRETCH, follow, make_stretch
from tqcli.archive.code import Code
from tqcli.archive.steps import LayerSteps, values
from tqcli.archive.transform import GroupEncoder
from tqcli.errors import InputError

F32 = NDArray[np.float32]
I16 = NDArray[np.int16]


class Flow:
    """Code each layer's K and V before the next layer's are known.

    Parameters
    ----------
    code : Code
        With one layer a group.

    Raises
    ------
    InputError
        If groups have several layers.
    """

    def __init__(self, code: Code) -> None:
        if code.group != 1:
            raise InputError(f"archive code: groups of {code.group} layers; layer by layer needs 1")
        self.code = code
        self._steps = [LayerSteps(layer) for layer in code.layers]
        self._groups = [GroupEncoder(group) for group in code.groups]
        self._before: list[I16] = []
        self._symbols: list[list[I16]] = [[] for _ in code.layers]

    def write(self, layer: int, k: NDArray[Any], v: NDArray[Any]) -> tuple[F32, F32]:
        """What K and V of some tokens decode to.

        Every layer must be written in turn, with the same tokens, before the next tokens come.

        Parameters
        ----------
        layer : int
            Counted in the layers of the code.
        k, v : arrays, shape (num_kv_heads, tokens, dim)
            K before RoPE.

        Returns
        -------
        k, v : float32 arrays of the same shapes
        """
        if layer == 0:
            self._before = []
        symbols, x = self._groups[layer].encode(self._steps[layer](k, v), self._before)
        self._before = follow(self.code, self._before, x)
        self._symbols[layer].append(symbols)
        return values(self.code.layers[layer], x)

    def nbytes(self) -> int:
        """Bytes of an archive of all that was written: tables and chunks."""
        total = 0
        symbols = np.concatenate([np.concatenate(parts, axis=1) for parts in self._symbols])
        for first in range(0, symbols.shape[1], STRETCH):
            part = symbols[:, first : first + STRETCH]
            chunks = ((at, part[:, at : at + CHUNK]) for at in range(0, part.shape[1], CHUNK))
            total += make_stretch(self.code, chunks).nbytes
        return total
