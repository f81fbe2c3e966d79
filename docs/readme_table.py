"""Write README.md's tables by running the commands that their markers name, or ``--check``."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
_BLOCK = re.compile(r"<!-- table: tq (?P<command>[^>]*) -->\n(?P<body>.*?)<!-- end -->", re.S)


def fresh(text: str) -> str:
    """README with every marked table as its command prints it now."""

    def run(match: re.Match[str]) -> str:
        command = [sys.executable, "-P", "-m", "tqcli", *match["command"].split()]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        table = "".join(line + "\n" for line in done.stdout.splitlines() if line.startswith("|"))
        return f"<!-- table: tq {match['command']} -->\n{table}<!-- end -->"

    return _BLOCK.sub(run, text)


def main() -> int:
    """Write README.md, or compare it."""
    old = README.read_text(encoding="utf-8")
    new = fresh(old)
    if "--check" in sys.argv:
        return int(old != new)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
