"""What a calibration is made of: sums by text, and what a model says without texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from tqcli.plan.identity import Identity
from tqcli.rope import Rope

# How tensors of a name merge: rows of texts join, or all files hold the same.
BY_TEXT, SAME = "by text", "same"
K_SUM, K_POWER, Q_POWER, K_BIAS, GRAM = "k.sum", "k.power", "q.power", "k.bias", "o_gram"
MERGES = {K_SUM: BY_TEXT, K_POWER: BY_TEXT, Q_POWER: BY_TEXT, K_BIAS: SAME, GRAM: SAME}
RANKS = {K_SUM: 4, K_POWER: 3, Q_POWER: 3, K_BIAS: 2, GRAM: 3}

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, order=True)
class Text:
    """One text that counts.

    Parameters
    ----------
    sha256 : str
        Of its token ids; of its place in the dump where those are not known.
    tokens : int
        Of the whole text.
    counted : tuple of int
        Tokens that count in its first and its second half.
    queries : bool
        Whether their power is known.
    """

    sha256: str
    tokens: int
    counted: tuple[int, int]
    queries: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "sha256": self.sha256,
            "tokens": self.tokens,
            "counted": list(self.counted),
            "queries": self.queries,
        }

    @classmethod
    def from_json(cls, data: Any) -> Text:
        """Inverse of :meth:`to_json`; ValueError, KeyError or TypeError if it is none."""
        first, second = data["counted"]
        made = cls(data["sha256"], data["tokens"], (first, second), data["queries"])
        numbers = (made.tokens, first, second)
        if not isinstance(made.sha256, str) or not isinstance(made.queries, bool):
            raise ValueError(data)
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
            raise ValueError(data)
        return made


class Evidence(Protocol):
    """What a calibration is made of: a dump's sums, another calibration, a model's biases."""

    where: str
    identity: Identity
    texts: list[Text]  # rows of the tensors, in this order

    @property
    def layers(self) -> list[int]:
        """Layers that it speaks of."""
        ...

    def rope(self, layer: int) -> Rope:
        """RoPE of a layer."""
        ...

    def shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors of a layer by name, known before they are read."""
        ...

    def tensors(self, layer: int) -> Tensors:
        """The tensors of a layer by name; those of texts have a row each."""
        ...
