"""How fast this machine runs every operation of every kernel, beside ``memcpy``.

All runs of one call share their arrays and are interleaved: repeat 1 of everything, repeat 2 of
everything, and so on, so that a busy moment of the machine does not fall on one row alone. A row
is the median of its repeats; the first, which warms up, is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from tqcli import kernels
from tqcli.errors import UsageError
from tqcli.kernels import attend, checks
from tqcli.kernels.layout import Layout, TurboLayout
from tqcli.kernels.weighting import weigh
from tqcli.words import suggest

VECTORS = 131_072  # of 128 values: 64 MiB of float32, past the caches
REPEATS = 7
QUERIES = (1, 4)  # per key head: multi-head attention, and a common grouping
BASELINE = "memcpy"
OPERATIONS = (
    "encode",
    "encode, new output",
    "encode weighted",
    "decode",
    "decode, new output",
    "decode rotated",
    "pack",
    "unpack",
    "scores",
    "scores int8",
    "scores float16",
    "weighted sum",
    "weighted sum float16",
)
# A search is measured when asked for: it takes a hundred times as long as the others.
SEARCH = "encode weighted"
DEFAULT = tuple(name for name in OPERATIONS if name != SEARCH)


class Row(TypedDict):
    """One measurement."""

    operation: str
    kernel: str  # "" for memcpy and the read-only pass
    dtype: str
    size_bytes: int  # of the array of floats, or of codes
    threads: int
    queries: int  # per key; 0 where there are none
    values_per_second: float
    ratio_to_memcpy: float  # to memcpy of as many float32 values, on one thread


@dataclass(frozen=True)
class _Job:
    operation: str
    kernel: str
    dtype: str
    size_bytes: int
    threads: int
    queries: int
    values: int
    run: Callable[[], object]


class _Arrays:
    """What the jobs share: inputs, and outputs whose pages are there."""

    def __init__(self, layout: Layout, vectors: int) -> None:
        rng = np.random.default_rng(20260301)
        self.layout, self.shape = layout, (vectors, layout.group)
        self.x: dict[str, NDArray[Any]] = {}
        self.y: dict[str, NDArray[Any]] = {}
        values = rng.standard_normal(self.shape, np.float32)
        for dtype in checks.FLOATS:
            self.x[dtype.name] = values.astype(dtype)
            self.y[dtype.name] = np.full(self.shape, 0, dtype)
        self.blocks = kernels.encode(values, layout)
        self.blocks_out = np.full_like(self.blocks, 0)
        half = np.exp(rng.standard_normal(layout.group // 2))
        self.weighting = weigh(np.concatenate([half, half]), layout.group)
        self.queries = rng.standard_normal((max(QUERIES), layout.group), np.float32)
        self.weights = rng.random((max(QUERIES), vectors), np.float32)


def measure(
    layout: Layout,
    *,
    vectors: int = VECTORS,
    names: Iterable[str] | None = None,
    operations: Iterable[str] = DEFAULT,
    dtypes: Iterable[str] = ("float32", "float16", "bfloat16"),
    threads: Iterable[int] = (1,),
    repeats: int = REPEATS,
    progress: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Measure operations of kernels.

    Parameters
    ----------
    layout : TurboLayout or TrellisLayout
        Packing and unpacking are measured for turbo, whose codes stand by themselves.
    vectors : int
        Groups in the arrays; the default is past the caches.
    names : iterable of str, optional
        Kernels; default :func:`tqcli.kernels.available`.
    operations, dtypes : iterable of str
        A choice of :data:`OPERATIONS` and of float types.
    threads : iterable of int
        Each operation is measured with each of these numbers of threads.
    repeats : int
        Runs that count, after one that does not.
    progress : function, optional
        Called after each repeat.

    Returns
    -------
    list of Row
        ``memcpy`` and a read-only pass of each float type first.

    Raises
    ------
    UsageError
        For a name that is not in these lists, or fewer than one vector or repeat.
    """
    names, operations = list(names or kernels.available()), list(operations)
    dtypes, threads = list(dtypes), list(threads)
    for given, legal, where in (
        (names, kernels.available(), "kernel"),
        (operations, OPERATIONS, "operation"),
        (dtypes, tuple(dtype.name for dtype in checks.FLOATS), "dtype"),
    ):
        for name in given:
            if name not in legal:
                few = f"; one of {', '.join(legal)}"
                hint = few if len(legal) < 6 else suggest(name, legal, "tq bench --help")
                raise UsageError(f"{where}: {name!r} is unknown here{hint}")
    if vectors < 1 or repeats < 1 or min(threads, default=0) < 1:
        raise UsageError("bench: vectors, repeats and threads must be at least 1")
    arrays = _Arrays(layout, vectors)
    jobs = [*_baselines(arrays)]
    for count in threads:
        for name in names:
            jobs += _operations(arrays, name, operations, dtypes, count)
    seconds: list[list[float]] = [[] for _ in jobs]
    for _ in range(repeats + 1):
        for job, times in zip(jobs, seconds, strict=True):
            times.append(_timed(job))
        progress()
    rates = [job.values / median(times[1:]) for job, times in zip(jobs, seconds, strict=True)]
    return [
        Row(
            operation=job.operation,
            kernel=job.kernel,
            dtype=job.dtype,
            size_bytes=job.size_bytes,
            threads=job.threads,
            queries=job.queries,
            values_per_second=rate,
            ratio_to_memcpy=rate / rates[0],
        )
        for job, rate in zip(jobs, rates, strict=True)
    ]


def _timed(job: _Job) -> float:
    if not job.kernel:
        start = perf_counter()
        job.run()
        return perf_counter() - start
    with kernels.use(job.kernel):
        start = perf_counter()
        job.run()
        return perf_counter() - start


def _baselines(a: _Arrays) -> Iterator[_Job]:
    """``memcpy``, float32 first; a sum over the same memory that writes nothing; a fresh copy."""
    for name, x in a.x.items():
        to, words = a.y[name].view(np.uint8), x.view(np.int64)
        copy, total = _call(np.copyto, to, x.view(np.uint8)), _call(np.sum, words)
        yield _Job(BASELINE, "", name, x.nbytes, 1, 0, x.size, copy)
        yield _Job("read-only sum", "", name, x.nbytes, 1, 0, x.size, total)
        # What fresh pages cost by themselves, for the rows with a new output.
        yield _Job(f"{BASELINE}, new output", "", name, x.nbytes, 1, 0, x.size, x.copy)


def _call(function: Callable[..., object], *args: Any, **options: Any) -> Callable[[], object]:
    return lambda: function(*args, **options)


def _operations(
    a: _Arrays, kernel: str, operations: list[str], dtypes: list[str], threads: int
) -> Iterator[_Job]:
    for runs in (_float_runs(a, dtypes, threads), _code_runs(a, threads), _attend_runs(a, threads)):
        for operation, dtype, size, queries, run in runs:
            if operation in operations:
                values = a.shape[0] * a.shape[1] * max(queries, 1)
                yield _Job(operation, kernel, dtype, size, threads, queries, values, run)


_Run = tuple[str, str, int, int, Callable[[], object]]


def _float_runs(a: _Arrays, dtypes: list[str], threads: int) -> Iterator[_Run]:
    for name in dtypes:
        x, y, size, t = a.x[name], a.y[name], a.x[name].nbytes, threads
        encode, decode, layout = kernels.encode, kernels.decode, a.layout
        yield "encode", name, size, 0, _call(encode, x, layout, out=a.blocks_out, threads=t)
        yield "encode, new output", name, size, 0, _call(encode, x, layout, threads=t)
        weighted = _call(encode, x, layout, weights=a.weighting, out=a.blocks_out, threads=t)
        yield SEARCH, name, size, 0, weighted
        to = {"dtype": x.dtype, "threads": t}
        yield "decode", name, size, 0, _call(decode, a.blocks, layout, out=y, **to)
        yield "decode, new output", name, size, 0, _call(decode, a.blocks, layout, **to)
        rotated = _call(decode, a.blocks, layout, rotated=True, out=y, **to)
        yield "decode rotated", name, size, 0, rotated


def _code_runs(a: _Arrays, threads: int) -> Iterator[_Run]:
    if not isinstance(a.layout, TurboLayout):
        return
    bits, codes = a.layout.bits, kernels.codes(a.blocks, a.layout)
    out, packed = np.full_like(codes, 0), kernels.pack_codes(codes, bits)
    pack = _call(kernels.pack_codes, codes, bits, out=np.full_like(packed, 0), threads=threads)
    yield "pack", "uint8", codes.nbytes, 0, pack
    unpack = _call(kernels.unpack_codes, packed, bits, out=out, threads=threads)
    yield "unpack", "uint8", codes.nbytes, 0, unpack


def _attend_runs(a: _Arrays, threads: int) -> Iterator[_Run]:
    half = a.x["float16"]
    for m in QUERIES:
        q, w, t = a.queries[:m], a.weights[:m], {"threads": threads}
        q8, scale = attend.quantize_query(q)
        packed, size = (a.blocks, a.layout), half.size * 4
        yield "scores", "float32", size, m, _call(attend.scores, q, *packed, **t)
        yield "scores int8", "int8", size, m, _call(attend.scores_int8, q8, scale, *packed, **t)
        yield "scores float16", "float16", half.nbytes, m, _call(attend.scores_f16, q, half, **t)
        yield "weighted sum", "float32", size, m, _call(attend.weighted_sum, w, *packed, **t)
        of_half = _call(attend.weighted_sum_f16, w, half, **t)
        yield "weighted sum float16", "float16", half.nbytes, m, of_half
