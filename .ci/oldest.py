"""Print the lowest version that pyproject.toml allows of each dependency, as requirements.

Usage: ``python .ci/oldest.py [EXTRA]...``.
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(extras: list[str]) -> list[str]:
    """``numpy==2.0`` for ``numpy>=2.0``; a bound of any other kind is an error."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    needed = list(project["dependencies"])
    for extra in extras:
        needed += project["optional-dependencies"][extra]
    pinned = []
    for text in needed:
        match = re.fullmatch(r"([\w.-]+)>=([\w.]+)", text)
        if match is None:
            raise SystemExit(f"{PROJECT}: {text}: write NAME>=VERSION, so that it can be tested")
        pinned.append("==".join(match.groups()))
    return pinned


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1:])))
