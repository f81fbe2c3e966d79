"""Texts into token sequences: prompts one by one, or equal windows over a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqcli.errors import InputError, UsageError


@dataclass(frozen=True)
class Prompts:
    """What the model reads.

    Each text is one sequence, run by itself: there is no padding to leave out. With ``chunks`` the
    texts are joined into one corpus and cut into that many windows of ``context`` tokens.

    Parameters
    ----------
    texts : tuple of str
    chunks : int or None
        Number of windows; needs ``context``.
    context : int or None
        Tokens of each window, or the most that is kept of each text.
    """

    texts: tuple[str, ...]
    chunks: int | None = None
    context: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not self.texts:
            raise UsageError("prompt: none given; pass --prompt TEXT or -f FILE ('-' is stdin)")
        for option, value in (("--chunks", self.chunks), ("-c/--ctx-size", self.context)):
            if value is not None and value < 1:
                raise UsageError(f"{option}: {value}; legal is 1 or more")
        if self.chunks is not None and self.context is None:
            raise UsageError("--chunks: needs the window's length; add -c TOKENS")


def token_sequences(prompts: Prompts, tokenizer: Any) -> list[list[int]]:
    """Token ids of every sequence, each as the tokenizer starts a text (BOS where it adds one).

    Raises
    ------
    InputError
        A text without tokens, or a corpus too short for the windows asked for.
    """
    if prompts.chunks is not None and prompts.context is not None:
        corpus = _tokens("\n\n".join(prompts.texts), tokenizer, special=False)
        return _windows(corpus, prompts.chunks, prompts.context, _start(tokenizer))
    sequences = []
    for number, text in enumerate(prompts.texts):
        tokens = _tokens(text, tokenizer, special=True)[: prompts.context]
        if not tokens:
            raise InputError(f"prompt {number}: no tokens in it; legal is a text of one or more")
        sequences.append(tokens)
    return sequences


def _tokens(text: str, tokenizer: Any, *, special: bool) -> list[int]:
    return [int(token) for token in tokenizer(text, add_special_tokens=special)["input_ids"]]


def _start(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text: the token or tokens that become attention sinks."""
    plain, full = (_tokens("a", tokenizer, special=flag) for flag in (False, True))
    for index in range(len(full) - len(plain) + 1):
        if full[index : index + len(plain)] == plain:
            return full[:index]
    return []


def _windows(
    corpus: Sequence[int], chunks: int, context: int, start: Sequence[int]
) -> list[list[int]]:
    fresh = context - len(start)
    if fresh < 1:
        raise UsageError(f"-c/--ctx-size: {context}; legal is more than {len(start)} here")
    if len(corpus) < chunks * fresh:
        raise InputError(
            f"corpus: {len(corpus)} tokens; {chunks} windows of {context} need {chunks * fresh};"
            " give more text or fewer chunks"
        )
    return [[*start, *corpus[i * fresh : (i + 1) * fresh]] for i in range(chunks)]
