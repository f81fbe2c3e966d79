"""Write README.md's tables from a stored report, and that report anew where its figures moved.

Usage: ``python docs/readme_table.py [--check]``. A marker in README.md names a command; what it
reports is stored in ``docs/readme_report.json``, and the table is drawn from there. So README holds
the same text wherever it is written, while a run of today must agree with the store as numbers,
within the tolerances below.
"""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tqcli.report.render import render
from tqcli.report.result import Report
from tqcli.report.views import COMPARE

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
STORE = ROOT / "docs" / "readme_report.json"
KEPT = ("schema", "inputs", "rows")
COLUMNS = {"tq.compare/1": COMPARE}
_BLOCK = re.compile(r"<!-- table: tq (?P<command>[^>]*) -->\n(?P<body>.*?)<!-- end -->", re.S)

# A BLAS adds in its own order. Scores, weights and outputs are float32 sums of at most 256 terms
# (head_dim, tokens), each within 256 * 2**-24 = 1.5e-5 of its magnitudes; three stand in a row.
RELATIVE = 1e-4
# A KL is a difference of logarithms of such sums, and small where the sums are nearly equal.
ABSOLUTE = 1e-5
# Where two keys tie within rounding, either may lead: some of the thousands of queries of a layer.
SHARES = 1e-3


def commands(text: str) -> list[str]:
    """What the markers of a page name, ``compare ...``."""
    return [match["command"] for match in _BLOCK.finditer(text)]


def measure(command: str) -> dict[str, Any]:
    """What the command reports today."""
    words = [sys.executable, "-P", "-m", "tqcli", *command.split(), "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    return {key: document[key] for key in KEPT}


def differences(stored: Any, found: Any, place: str = "") -> list[str]:
    """Places where two reports differ by more than rounding, with both values."""
    if isinstance(stored, dict) and isinstance(found, dict) and stored.keys() == found.keys():
        return [d for key in stored for d in differences(stored[key], found[key], f"{place}.{key}")]
    if isinstance(stored, list) and isinstance(found, list) and len(stored) == len(found):
        pairs = enumerate(zip(stored, found, strict=True))
        return [d for at, (a, b) in pairs for d in differences(a, b, f"{place}[{at}]")]
    if isinstance(stored, float) and isinstance(found, float):
        near = SHARES if ".top1" in place else ABSOLUTE
        same = math.isclose(stored, found, rel_tol=RELATIVE, abs_tol=near)
        # Nothing lost is exact, not small.
        same = same and (stored == 0) == (found == 0)
    else:
        same = stored == found and type(stored) is type(found)
    return [] if same else [f"{place}: {stored!r} stored, {found!r} found"]


def page(text: str, reports: dict[str, Any]) -> str:
    """The page with every marked table as its stored report gives it."""

    def draw(match: re.Match[str]) -> str:
        command = match["command"]
        stored = reports[command]
        schema, rows = stored["schema"], stored["rows"]
        lines = render(Report(schema, "", COLUMNS[schema], rows), "md").splitlines()
        table = "".join(f"{line}\n" for line in lines if line.startswith("|"))
        return f"<!-- table: tq {command} -->\n{table}<!-- end -->"

    return _BLOCK.sub(draw, text)


def read() -> dict[str, Any]:
    """The stored reports, by command."""
    return dict(json.loads(STORE.read_text(encoding="utf-8"))) if STORE.exists() else {}


def main() -> int:
    """Write the store and README.md, or compare them."""
    text, stored = README.read_text(encoding="utf-8"), read()
    found = {command: measure(command) for command in commands(text)}
    moved = differences(stored, found)
    if "--check" in sys.argv:
        print(*moved, sep="\n", end="\n" if moved else "")
        return int(bool(moved) or page(text, stored) != text)
    if moved:
        stored = found
        STORE.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    README.write_text(page(text, stored), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
