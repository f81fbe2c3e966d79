"""Independent jobs on threads: results in order, the first error stops the rest.

What the jobs do most of the time (reading, hashing, kernels, writing) lets go of the GIL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_local = threading.local()


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
    stop = threading.Event()

    def begin(job: Callable[[], T]) -> T:
        with _inside(stop, max(threads // count, 1)):
            check()
            return job()

    with ThreadPoolExecutor(count, thread_name_prefix="tq-worker") as pool:
        futures = [pool.submit(begin, job) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _inside(stop: threading.Event, threads: int) -> Iterator[None]:
    _local.stop, _local.threads = stop, threads
    try:
        yield
    finally:
        del _local.stop, _local.threads


def share() -> int | None:
    """Threads that the job of the calling thread may use; None outside of jobs."""
    return getattr(_local, "threads", None)


def check() -> None:
    """End the calling job if another has failed; called wherever a job has done a piece of work."""
    stop = getattr(_local, "stop", None)
    if stop is not None and stop.is_set():
        raise Stopped


def serial(call: Callable[[int], None]) -> Callable[[int], None]:
    """The same function for several jobs, called by one at a time."""
    lock = threading.Lock()

    def locked(count: int) -> None:
        with lock:
            call(count)

    return locked
