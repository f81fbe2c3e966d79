"""Memory is bounded by a piece: neither the file nor one tensor has to fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def measure(root: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """Run the benchmark that measures the peak of ``tq quantize``."""
    command = [sys.executable, "-P", str(root / "benchmarks" / "memory.py"), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_quantize_holds_a_piece(root: Path) -> None:
    """Two tensors of 64 MiB pass through a process that never holds one of them.

    Python with NumPy, gguf and safetensors is 60 MiB by itself.
    """
    done = measure(root, "--gib", 0.125, "--layers", 1, "--limit", 110)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "peak" in done.stdout


def test_the_limit_is_a_limit(root: Path) -> None:
    """The benchmark says no when there is too much."""
    done = measure(root, "--gib", 0.001, "--limit", 1)
    assert (done.returncode, done.stderr) == (1, "")
