"""Every key of every report, once: headings, number formats, the page, and what gates may name.

A new key is one line in the module of its subject. Heading = key with spaces for underscores (what
Gaussian vectors give, ``null_nmse`` and so on, is headed ``gaussian``); ``--fail-if`` and
``--columns`` take either.
"""

from __future__ import annotations

from collections.abc import Sequence

from tqcli.errors import UsageError
from tqcli.report.figures import attention, document, files, model, places, vectors
from tqcli.report.figures.figure import BYTES, PROSE, Figure, human_bytes
from tqcli.words import suggest

# Section of the page -> keys of rows.
SECTIONS: dict[str, tuple[Figure, ...]] = {
    "What a row speaks of": places.FIGURES,
    "Vectors": vectors.FIGURES,
    "Attention": attention.FIGURES,
    "Model": model.FIGURES,
    "Files, codebooks, types, kernels": files.FIGURES,
}
ROWS: dict[str, Figure] = {f.key: f for figures in SECTIONS.values() for f in figures}
REPORTS = document.ALL
DOCUMENT: dict[str, Figure] = {f.key: f for f in document.FIGURES}


def of_report(report: str) -> list[Figure]:
    """Keys of the rows of a command's report."""
    return [figure for figure in ROWS.values() if report in figure.reports]


def find(text: str, report: str, where: str, *, numbers: bool = False) -> Figure:
    """The key that a user means.

    Parameters
    ----------
    text : str
        A key, a heading or a short name (``p1``).
    report : str
        The command.
    where : str
        Names the option in errors.
    numbers : bool
        Only keys with numbers.

    Raises
    ------
    UsageError
        If there is none; the nearest name is suggested.
    """
    name = "_".join(text.split())
    known = {n: f for f in of_report(report) for n in f.names if f.is_number or not numbers}
    if name in known:
        return known[name]
    what = f"{name!r} is no {'number' if numbers else 'figure'} in the report of tq {report}"
    raise UsageError(f"{where}: {what}{suggest(name, known, f'tq figures --report {report}')}")


def entries(names: Sequence[str] = (), report: str | None = None) -> list[dict[str, str | None]]:
    """What is known of the keys of rows, for `tq figures`: a row a key.

    Parameters
    ----------
    names : sequence of str
        Keys, headings or short names; none stands for all.
    report : str, optional
        Only keys of this command's rows.

    Raises
    ------
    UsageError
        If a name is unknown.
    """
    chosen = [f for f in ROWS.values() if report in (None, *f.reports)]
    if names:
        known = {name: figure for figure in chosen for name in figure.names}
        keys = ["_".join(name.split()) for name in names]
        for key in keys:
            if key not in known:
                raise UsageError(f"no figure {key!r}{suggest(key, known, 'tq figures')}")
        chosen = [known[key] for key in dict.fromkeys(keys)]
    return [
        {
            "figure": figure.key,
            "heading": figure.title,
            "unit": figure.unit or None,
            "range": figure.range or None,
            "formula": figure.formula,
            "source": figure.source,
            "reports": ", ".join(figure.reports),
        }
        for figure in chosen
    ]


__all__ = [
    "BYTES",
    "DOCUMENT",
    "PROSE",
    "REPORTS",
    "ROWS",
    "SECTIONS",
    "Figure",
    "entries",
    "find",
    "human_bytes",
    "of_report",
]
