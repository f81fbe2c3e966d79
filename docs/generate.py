"""Write ``docs/cli.md`` from the help texts of the commands; ``--check`` only compares.

``python docs/generate.py`` with tq installed. The test suite runs the comparison.
"""

import sys
from pathlib import Path
from typing import Any

from typer.main import get_command

from tqcli.cli import app

TARGET = Path(__file__).parent / "cli.md"
HEAD = """# Command reference

Generated from the help texts by `docs/generate.py`; edit those.

Results go to stdout, progress and notes to stderr. Exit codes: 0 fine, 1 a gate (`--fail-if`)
failed, 2 usage, 3 bad input (file or values), 130 interrupted
(Ctrl-C), 143 terminated.
"""


def render() -> str:
    """The whole page."""
    root: Any = get_command(app)
    parts = [HEAD, "## tq\n", *_options(root)]
    for name, command in root.commands.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join(["tq", name, *(_name(p) for p in arguments)])
        parts += [f"## tq {name}\n", f"    {usage} [OPTIONS]\n", _text(command.help)]
        parts += _options(command)
    return "\n".join(parts).rstrip() + "\n"


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _text(text: str) -> str:
    lines = []
    for line in text.strip().splitlines():
        if line.startswith("Example: "):
            lines += ["Example:", "", f"    {line.removeprefix('Example: ')}"]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _options(command: Any) -> list[str]:
    rows = []
    for param in command.params:
        if param.param_type_name == "argument":
            rows.append(f"- `{_name(param)}`: {param.help}")
            continue
        names = ", ".join(f"`{o}`" for o in (*param.opts, *param.secondary_opts))
        default = param.default
        shown = f" Default: `{default}`." if isinstance(default, str | int) and default else ""
        required = " Required." if param.required else ""
        rows.append(f"- {names}: {(param.help or '').rstrip('.')}.{shown}{required}")
    return ["\n".join(rows) + "\n"]


def main() -> int:
    """Write the page, or compare it."""
    text = render()
    if "--check" in sys.argv:
        return int(not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
