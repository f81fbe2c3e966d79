"""Independent jobs on threads: results in order, the first error stops the rest.

What the jobs do most of the time (reading, hashing, kernels, writing) lets go of the GIL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_local = threading.local()
_lock = threading.Lock()


class Stopped(BaseException):
    """Another job failed, so that this one ends early; never reaches a caller of :func:`run`."""


def run(jobs: Sequence[Callable[[], T]], threads: int) -> list[T]:
    """Run jobs on at most `threads` threads; their results in order.

    Inside a job, :func:`share` says how many of these threads are its own.

    Raises
    ------
    Exception
        The error of the first job, in order, that failed; jobs behind it end at their next
        :func:`check`, and those before it are waited for.
    """
    count = min(threads, len(jobs))
    if count <= 1:
        return [job() for job in jobs]
    state = _State(max(threads // count, 1), len(jobs))
    with ThreadPoolExecutor(count, thread_name_prefix="tq-worker") as pool:
        futures = [pool.submit(_begin, state, index, job) for index, job in enumerate(jobs)]
        try:
            return [future.result() for future in futures]
        except BaseException:
            state.failed = -1  # an interrupt of this thread ends all of them
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass
class _State:
    """What the jobs of one :func:`run` know of each other."""

    threads: int  # for each job
    failed: int  # the first job that failed; beyond the last while none has


def _begin(state: _State, index: int, job: Callable[[], T]) -> T:
    _local.state, _local.index = state, index
    try:
        check()
        return job()
    except BaseException:
        with _lock:
            state.failed = min(state.failed, index)
        raise
    finally:
        del _local.state, _local.index


def share() -> int | None:
    """Threads that the job of the calling thread may use; None outside of jobs."""
    state = getattr(_local, "state", None)
    return None if state is None else int(state.threads)


def check() -> None:
    """End the calling job if one before it failed; called for every piece of work in a job."""
    state = getattr(_local, "state", None)
    if state is not None and state.failed < _local.index:
        raise Stopped


def serial(call: Callable[[int], None]) -> Callable[[int], None]:
    """The same function for several jobs, called by one at a time."""
    lock = threading.Lock()

    def locked(count: int) -> None:
        with lock:
            call(count)

    return locked
