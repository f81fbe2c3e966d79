"""Sums over the tokens of one head, in an order that no cut into pieces or parts changes.

Tokens are added one after the other within units of 4,096. Two neighbouring units make a pair, two
pairs a quadruple, and so on, and the sums of both halves are added; what is left at the end is
added from the first to the last. So the tree depends on the number of tokens alone, only a few
sums are held at a time, and parts of a sequence that begin at a unit merge to the same bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
UNIT = 4096


class TokenSums:
    """Sums of `width` figures of each token.

    Parameters
    ----------
    width : int
    """

    def __init__(self, width: int) -> None:
        self._width = width
        # Sums by (level, number): of the 2**level units from number * 2**level on.
        self._nodes: dict[tuple[int, int], F64] = {}

    def unit(self, number: int) -> F64:
        """The sums of one unit, float64 of ``(width,)``, to be added to; begins with zeros.

        Its tokens must come in order. Units before it are taken to be complete.
        """
        if (0, number) not in self._nodes:
            self._nodes = _joined(self._nodes)
            self._nodes[0, number] = np.zeros(self._width)
        return self._nodes[0, number]

    def copy(self) -> TokenSums:
        """The same sums, to be added to apart."""
        twin = TokenSums(self._width)
        twin._nodes = {key: sums.copy() for key, sums in self._nodes.items()}
        return twin

    def merge(self, other: TokenSums) -> TokenSums:
        """The sums of both; a unit that both have is added up."""
        merged = self.copy()
        for key, sums in other._nodes.items():
            own = merged._nodes.get(key)
            merged._nodes[key] = sums.copy() if own is None else own + sums
        return merged

    def total(self) -> F64:
        """The sums over all tokens, float64 of ``(width,)``."""
        nodes = _joined(self._nodes)
        total = np.zeros(self._width)
        for key in sorted(nodes, key=lambda key: key[1] << key[0]):
            total += nodes[key]
        return total


def _joined(nodes: dict[tuple[int, int], F64]) -> dict[tuple[int, int], F64]:
    """The same sums with every complete pair joined; nothing is changed in place."""
    nodes = dict(nodes)
    waiting = sorted(nodes)
    while waiting:
        level, number = waiting.pop()
        left, right = (level, number & ~1), (level, number | 1)
        if left in nodes and right in nodes:
            above = (level + 1, number >> 1)
            sums = nodes.pop(left) + nodes.pop(right)
            nodes[above] = nodes[above] + sums if above in nodes else sums
            waiting.append(above)
    return nodes
