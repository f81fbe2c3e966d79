"""Small pieces of text that several rooms write: counts, runs of numbers, the nearest name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    Examples
    --------
    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def spans(numbers: Sequence[int]) -> list[str]:
    """Ascending runs of whole numbers.

    Examples
    --------
    >>> spans([1, 0, 2, 7])
    ['0-2', '7']
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]


def suggest(name: str, known: Iterable[str], see: str = "") -> str:
    """The end of an error about an unknown name: the nearest known one, and where all are listed.

    Parameters
    ----------
    name : str
        What came.
    known : iterable of str
        What is known.
    see : str, optional
        The command that lists the known names.

    Returns
    -------
    str
        Empty, or beginning with ``"; "``.

    Examples
    --------
    >>> suggest("turbo9", ["turbo3", "f16"], "tq types")
    '; did you mean turbo3? see tq types'
    >>> suggest("xyz", ["turbo3", "f16"], "tq types")
    '; see tq types'
    """
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), 1, cutoff=0.5)
    parts = [f"did you mean {near[0]}?"] if near else []
    parts += [f"see {see}"] if see else []
    return "; " + " ".join(parts) if parts else ""
