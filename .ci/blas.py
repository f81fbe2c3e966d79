"""Run the tests that multiply matrices under each kind of processor that OpenBLAS knows.

OpenBLAS adds in another order on each, and chooses by itself; what is exact must be so on all.
Usage: ``python -P .ci/blas.py [PYTEST OPTION]...``, with tq installed.
"""

import os
import subprocess
import sys
from pathlib import Path

from tqcli import kernels

VARIABLE = "OPENBLAS_CORETYPE"
# The processor, and a kernel of ours that needs the same instructions.
CORETYPES = (
    ("Nehalem", "portable"),
    ("Sandybridge", "portable"),
    ("Haswell", "avx2"),
    ("Zen", "avx2"),
    ("SkylakeX", "avx512"),
)
TESTS = (
    "tests/attend",
    "tests/attention",
    "tests/cli/test_commands.py",
    "tests/cli/test_threads.py",
    "tests/codecs/test_qjl.py",
    "tests/codecs/test_rotation.py",
    "tests/metrics",
    "tests/modelcache",
    "tests/pipeline/test_evaluate.py",
    "tests/pipeline/test_fit.py",
    "tests/test_docs.py",
)


def main() -> int:
    """Run them all; the first exit code that is not 0, or 0."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-P", "-m", "pytest", "-q", *TESTS, *sys.argv[1:]]
    plain = {key: value for key, value in os.environ.items() if key != VARIABLE}
    codes = []
    for name, needs in (("unset", "numpy"), *CORETYPES):
        if needs not in kernels.available():
            print(f"{VARIABLE}={name}: left out, this machine has no {needs}", flush=True)
            continue
        print(f"{VARIABLE}={name}", flush=True)
        environment = plain if name == "unset" else {**plain, VARIABLE: name}
        codes.append(subprocess.run(command, cwd=root, env=environment).returncode)
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
