"""``python -m tqcli`` is ``tq``."""

from tqcli.cli import main

main()
