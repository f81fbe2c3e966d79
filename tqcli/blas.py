"""Threads of BLAS beside our own.

Attention is measured on several threads that multiply matrices. A BLAS that starts more threads in
each of them fights itself for the cores: with OpenBLAS, which NumPy's wheels bring, that takes
twice the time on an idle machine, and minutes for seconds on a busy one.
"""

from __future__ import annotations

import os

# OpenBLAS reads it once, when NumPy is first imported.
VARIABLE = "OPENBLAS_NUM_THREADS"


def use_one_thread() -> None:
    """Keep BLAS to the thread that calls it, unless the user said otherwise.

    For the start of a program, before NumPy is imported. Not where a model runs: the BLAS of a
    framework reads the same variable.
    """
    os.environ.setdefault(VARIABLE, "1")


def is_threaded() -> bool:
    """Whether a product may start threads of its own."""
    return os.environ.get(VARIABLE) != "1"
