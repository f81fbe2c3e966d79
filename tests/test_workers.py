"""Jobs on threads: order, errors, the share of threads, and how they stop."""

from __future__ import annotations

import threading

import pytest

from tqcli import kernels, workers
from tqcli.kernels import choose


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_in_order(threads: int) -> None:
    """Whichever job ends first."""
    gate = threading.Event()

    def first() -> int:
        if threads > 1:
            assert gate.wait(10)
        return 1

    def second() -> int:
        gate.set()
        return 2

    assert workers.run([first, second, lambda: 3], threads) == [1, 2, 3]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_first_error_in_order(threads: int) -> None:
    """Of two jobs that fail, the error of the earlier one is told, also if it came later."""
    late = threading.Event()

    def slow() -> None:
        if threads > 1:
            late.wait(10)
        raise ValueError("first")

    def quick() -> None:
        late.set()
        raise ValueError("second")

    with pytest.raises(ValueError, match="first"):
        workers.run([slow, quick], threads)


def test_an_error_stops_the_others() -> None:
    """Jobs that have begun end at their next piece; those that have not never begin."""
    begun = threading.Event()
    ended, never = [], []

    def endless() -> None:
        begun.set()
        try:
            while True:
                workers.check()
        finally:
            ended.append(True)

    def failing() -> None:
        assert begun.wait(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workers.run([failing, endless, lambda: never.append(True)], 2)
    assert (ended, never) == ([True], [])


def test_threads_are_shared() -> None:
    """The kernels inside jobs use no more threads than there are, all together."""
    shares = workers.run([choose.threads] * 2, 7)
    assert shares == [3, 3]
    assert workers.run([choose.threads] * 9, 4) == [1] * 9
    assert workers.share() is None
    kernels.set_threads(5)
    try:
        assert choose.threads() == 5
        assert workers.run([choose.threads], 5) == [5]  # one job runs where it is called
    finally:
        kernels.set_threads(None)


def test_serial() -> None:
    """A function that is not made for threads sees one call at a time."""
    total = 0

    def add(count: int) -> None:
        nonlocal total
        before = total
        for _ in range(50):
            pass
        total = before + count

    one = workers.serial(add)

    def many() -> None:
        for _ in range(2000):
            one(1)

    workers.run([many] * 4, 4)
    assert total == 8000
