"""Progress bars: on stderr, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bytes(
    total: int, label: str, *, unit: str = "B", quiet: bool = False
) -> Iterator[Callable[[int], None]]:
    """A bar over bytes, or another unit; yields the function that moves it.

    Silent where stderr is no terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from tqdm import tqdm

    with tqdm(
        total=total, desc=label, unit=unit, unit_scale=True, file=sys.stderr, leave=False
    ) as bar:
        yield lambda count: bar.update(count) and None


def note(text: str, *, quiet: bool = False) -> None:
    """One line on stderr for the person at the keyboard."""
    if not quiet:
        print(text, file=sys.stderr)
