"""What the model reads while it is scored: texts of ours, or those of the user."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqcli.errors import InputError, UsageError

CONTEXT = 1024  # tokens of one text; the first half becomes cache, the second is scored
CHUNKS = 4
# Fewer would leave a half with nothing to predict from or nothing to predict.
_MIN_CONTEXT = 8
_FOLDER = Path(__file__).parent / "texts"


def builtin_texts() -> list[str]:
    """The texts that come with tq, each of 1,100 tokens or more in common tokenizers.

    Prose, essay, code and conversation, then four more of other kinds: whoever sets a threshold
    on the first four can try it on the rest.
    """
    return [path.read_text(encoding="utf-8") for path in sorted(_FOLDER.glob("*.txt"))]


@dataclass(frozen=True)
class Corpus:
    """Texts, and how they are cut.

    Parameters
    ----------
    texts : tuple of str
        The user's, joined and cut into windows; none for the built-in ones, each of which is
        read from its start.
    chunks : int
        Number of windows, or of built-in texts.
    context : int
        Tokens of each.
    first : int
        Built-in texts before this one are left out.
    """

    texts: tuple[str, ...] = ()
    chunks: int = CHUNKS
    context: int = CONTEXT
    first: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.chunks < 1:
            raise UsageError(f"--chunks: {self.chunks}; legal is 1 or more")
        if self.context < _MIN_CONTEXT:
            raise UsageError(f"-c/--ctx-size: {self.context}; legal is {_MIN_CONTEXT} or more")
        most = len(list(_FOLDER.glob("*.txt"))) - self.first
        if not self.texts and self.chunks > most:
            raise UsageError(
                f"--chunks: {self.chunks}; there are {most} built-in texts, give your own with -f"
            )

    def sequences(self, tokenizer: Any) -> list[list[int]]:
        """Token ids, `chunks` lists of `context`.

        Raises
        ------
        InputError
            If the texts are too short.
        """
        from tqcli.sources.hf.prompts import Prompts, token_sequences

        if self.texts:
            return token_sequences(Prompts(self.texts, self.chunks, self.context), tokenizer)
        texts = tuple(builtin_texts()[self.first : self.first + self.chunks])
        sequences = token_sequences(Prompts(texts, context=self.context), tokenizer)
        shortest = min(map(len, sequences))
        if shortest < self.context:
            raise InputError(
                f"built-in texts: {shortest} tokens in the shortest; -c {self.context} needs as "
                "many; choose a smaller -c or give your own text with -f"
            )
        return sequences
