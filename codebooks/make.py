"""Write the shipped codebooks; refuses to overwrite a file that says something else.

Run from a checkout with tq installed: ``python codebooks/make.py``. Upstream's tables are printed
numbers (positive half of the centroids and boundaries, six decimals) and are copied as printed:
ties depend on them. The exact ones are computed, by the command that their provenance names.
"""

import sys
from pathlib import Path

from tqcli.codebook import Codebook, CodebookSet, dumps, exact_set

HERE = Path(__file__).parent
SOURCE = "ggml-turbo-quant.c of the llama.cpp turbo fork, tables as printed to six decimals"

UPSTREAM = {
    "turbo-2bit": ("since 24 Mar 2026", (0.039994, 0.133462), (0.086728,)),
    "turbo-3bit@2026-03": (
        "24 Mar to 26 Jun 2026",
        (0.021460, 0.065717, 0.117832, 0.190685),
        (0.043589, 0.091775, 0.154259),
    ),
    "turbo-3bit": (
        "since 26 Jun 2026",
        (0.021663, 0.066822, 0.118786, 0.190207),
        (0.044243, 0.092804, 0.154496),
    ),
    "turbo-4bit@2026-03": (
        "28 Mar to 26 Jun 2026; mis-scaled, doubles the error on Gaussian rows",
        (0.006938, 0.020989, 0.035597, 0.051262, 0.068756, 0.089527, 0.117195, 0.173926),
        (0.013963, 0.028293, 0.043430, 0.060009, 0.079142, 0.103361, 0.145560),
    ),
    "turbo-4bit": (
        "since 26 Jun 2026",
        (0.011349, 0.034299, 0.058050, 0.083292, 0.111036, 0.143016, 0.182877, 0.241529),
        (0.022824, 0.046174, 0.070671, 0.097164, 0.127026, 0.162947, 0.212203),
    ),
}


def upstream(name: str) -> CodebookSet:
    """One of upstream's tables for groups of 128, both halves."""
    when, levels, edges = UPSTREAM[name]
    centroids = (*(-c for c in reversed(levels)), *levels)
    boundaries = (*(-b for b in reversed(edges)), 0.0, *edges)
    bits = (len(centroids) - 1).bit_length()
    book = Codebook(name, bits, 128, centroids, boundaries)
    return CodebookSet(
        name, {"*": book}, {"made_by": "python codebooks/make.py", "source": SOURCE, "used": when}
    )


def main() -> int:
    """Write what is missing, check what is there."""
    books = [upstream(name) for name in UPSTREAM]
    books += [exact_set("gaussian", bits, 1) for bits in range(1, 6)]
    books += [exact_set("sphere", bits, dim) for dim in (64, 128) for bits in range(1, 6)]
    clash = 0
    for book in books:
        path, text = HERE / f"{book.id}.json", dumps(book)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            print(f"{path}: exists and differs; left as it is", file=sys.stderr)
            clash = 1
        elif not path.exists():
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}")
    return clash


if __name__ == "__main__":
    sys.exit(main())
