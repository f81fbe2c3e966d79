"""Run tokens through a model in chunks, with a cache of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tqcli.errors import InputError, UsageError
from tqcli.sources.hf.forward import forward, returned_cache

CHUNK_SIZE = 512  # tokens of one forward pass


@dataclass(frozen=True)
class Loop:
    """A model, and how many of the tokens it reads at a time.

    The same grid of chunks serves the float run and the quantized ones: then a cache that changes
    nothing gives the very same logits, since every matrix product has the same shape.

    Parameters
    ----------
    model : a transformers causal language model in evaluation mode
    chunk_size : int
        Tokens of one forward pass; 1 is token by token.
    """

    model: Any
    chunk_size: int = CHUNK_SIZE

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.chunk_size < 1:
            raise UsageError(f"--chunk-size: {self.chunk_size}; legal is 1 or more")

    def read(self, tokens: Sequence[int], cache: Any) -> None:
        """Read tokens into `cache`; no logits are computed."""
        decoder = self.model.get_decoder()
        for ids in self._chunks(tokens):
            self._check(forward(decoder, ids, cache), cache)

    def logits(self, tokens: Sequence[int], cache: Any) -> Any:
        """Read tokens into `cache`; float32 tensor (tokens, vocabulary), on the CPU."""
        import torch

        parts = []
        for ids in self._chunks(tokens):
            output = forward(self.model, ids, cache)
            self._check(output, cache)
            parts.append(output.logits[0].float().cpu())
        return torch.cat(parts)

    def _chunks(self, tokens: Sequence[int]) -> Iterator[Any]:
        import torch

        for start in range(0, len(tokens), self.chunk_size):
            chunk = tokens[start : start + self.chunk_size]
            yield torch.tensor([chunk], device=self.model.device)

    def _check(self, output: Any, cache: Any) -> None:
        returned = returned_cache(output)
        if returned is not cache:
            came = "no cache" if returned is None else f"a {type(returned).__name__}"
            raise InputError(
                f"{type(self.model).__name__}: gives back {came} of its own; legal is a model that "
                "uses the DynamicCache that it is given"
            )
