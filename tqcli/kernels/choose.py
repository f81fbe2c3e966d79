"""The one place that chooses: which kernel runs, and on how many threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from types import ModuleType

from tqcli import workers
from tqcli.errors import UsageError
from tqcli.kernels import reference

native: ModuleType | None
try:
    from tqcli.kernels import _native

    native = _native
except ImportError:  # built without a compiler; NumPy does it all
    native = None

VARIABLE = "TQ_KERNEL"
_forced: str | None = None
_threads: int | None = None


@cache
def available() -> tuple[str, ...]:
    """Names of the kernels this machine can run, best first; ``numpy`` is always the last.

    Examples
    --------
    >>> available()[-1]
    'numpy'
    """
    return (*(native.kernels() if native else ()), reference.NAME)


def active() -> str:
    """Name of the kernel that runs: the forced one, that of ``TQ_KERNEL``, or the best.

    Raises
    ------
    UsageError
        If ``TQ_KERNEL`` names no kernel of this machine.
    """
    if _forced is not None:
        return _forced
    return _checked(os.environ.get(VARIABLE) or available()[0], VARIABLE)


def index() -> int | None:
    """Place of the active kernel in the extension's table; None for NumPy."""
    name = active()
    return None if name == reference.NAME else available().index(name)


@contextmanager
def use(name: str) -> Iterator[None]:
    """Force a kernel inside a ``with`` block, for tests and measurements.

    Process-wide: calls of other threads are forced as well.

    Raises
    ------
    UsageError
        If this machine cannot run `name`.
    """
    global _forced
    before, _forced = _forced, _checked(name, "kernel")
    try:
        yield
    finally:
        _forced = before


def _checked(name: str, where: str) -> str:
    if name in available():
        return name
    usable = ", ".join(available())
    raise UsageError(f"{where}: no kernel {name!r} on this machine; choose one of {usable}")


def set_threads(count: int | None) -> None:
    """Set how many threads a call may use; None for one per core this process may run on.

    Raises
    ------
    UsageError
        If `count` is below 1.
    """
    global _threads
    _threads = None if count is None else _counted(count)


def threads() -> int:
    """Threads that a call may use when it does not say; inside a job, the job's share."""
    if (own := workers.share()) is not None:
        return own
    return _threads if _threads is not None else _cores()


def _counted(count: int) -> int:
    if count < 1:
        raise UsageError(f"threads: {count}; at least 1")
    return count


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# A part smaller than this costs more to hand over than to compute.
PART_VALUES = 1 << 18


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads beside the caller's, one a core: more parts than that wait for each other."""
    return ThreadPoolExecutor(max(_cores() - 1, 1), thread_name_prefix="tq-kernel")


if hasattr(os, "register_at_fork"):  # threads do not survive a fork
    os.register_at_fork(after_in_child=_pool.cache_clear)


def split(
    run: Callable[[int, int], None], rows: int, row_values: int, count: int | None = None
) -> None:
    """Call ``run(start, stop)`` over parts of ``range(rows)``, on threads where that pays.

    Parameters
    ----------
    run : function of two row numbers
        Must let go of the GIL for most of its time.
    rows, row_values : int
        Rows, and values in each.
    count : int, optional
        Parts to cut into, at most; default :func:`threads`. No more of them run at once than
        there are cores.
    """
    wanted = threads() if count is None else _counted(count)
    parts = max(1, min(wanted, rows * row_values // PART_VALUES))
    if parts == 1:
        run(0, rows)
        return
    edges = [rows * i // parts for i in range(parts + 1)]
    others = [_pool().submit(run, a, b) for a, b in pairwise(edges[1:])]
    run(edges[0], edges[1])  # this thread takes its share
    for other in others:
        other.result()
