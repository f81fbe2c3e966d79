"""Layouts, hostile inputs and the kernels to try them on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tqcli import kernels
from tqcli.kernels.layout import TurboLayout

NATIVE = kernels.available()[:-1]
if os.environ.get("TQ_REQUIRE_NATIVE") and not NATIVE:
    raise RuntimeError("TQ_REQUIRE_NATIVE is set, but the extension is not there")

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
# (group, block) of every legal layout.
SHAPES = ((128, 128), (128, 64), (128, 32), (64, 64), (64, 32))

# Positive halves of stock tables; of the last one the halves differ, as fitted tables may.
_CENTROIDS = {
    2: (0.039994, 0.133462),
    3: (0.021663, 0.066822, 0.118786, 0.190207),
    4: (0.011349, 0.034299, 0.058050, 0.083292, 0.111036, 0.143016, 0.182877, 0.241529),
}


def make_layout(
    bits: int = 3,
    group: int = 128,
    block: int | None = None,
    header: int = 2,
    corrected: bool = True,
    *,
    skewed: bool = False,
    midpoints: Any = None,
) -> TurboLayout:
    """A layout with a symmetric or a skewed table."""
    half = np.array(_CENTROIDS[bits]) * np.sqrt(128 / group)
    low = half[::-1] * 0.9 + 0.004 if skewed else half[::-1]
    table = np.concatenate([-low, half]).astype(np.float32)
    if midpoints is None:
        midpoints = (table[1:] + table[:-1]) / 2
    return TurboLayout(
        bits,
        group,
        block or group,
        header,
        corrected,
        table,
        np.ascontiguousarray(midpoints, np.float32),
    )


def hostile(rng: np.random.Generator, n: int, group: int) -> Any:
    """Vectors of every size a float32 can have, and every special one, float32 ``(n, group)``."""
    x = rng.standard_normal((n, group)).astype(np.float32)
    x *= np.exp(rng.uniform(-60, 60, (n, 1))).astype(np.float32)
    specials = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1e-45,  # the least denormal: its square is zero
        1e-40,
        1e-23,  # squares at the edge of the denormals
        1e-19,
        1e-12,
        8.8e-12,  # a length of 1e-10, where a vector starts to count
        1e-10,
        65504.0,
        70000.0,
        1e18,
        1e19,
        1e30,  # the square overflows
        3e38,
        np.nan,
        np.inf,
        -np.inf,
    ]
    rows = iter(range(1, n, 3))
    for value, row in zip(specials, rows, strict=False):
        x[row] = value
    for value, row in zip(specials, rows, strict=False):
        x[row] = 0
        x[row, rng.integers(group)] = value
    for value, row in zip(specials, rows, strict=False):
        x[row] = rng.standard_normal(group)
        x[row, rng.integers(group)] = value
    return x


def cast(x: Any, dtype: Any) -> Any:
    """`x` in another float type; what overflows becomes infinite."""
    with np.errstate(all="ignore"):
        return x.astype(dtype)


def same(left: Any, right: Any) -> bool:
    """Equal bit for bit; of a NaN only that it is one (its sign is the compiler's choice)."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype == np.uint8:
        return bool(np.array_equal(left, right))
    nan = np.isnan(left)
    bits = np.uint32 if left.dtype.itemsize == 4 else np.uint16
    return bool(
        np.array_equal(nan, np.isnan(right))
        and np.array_equal(left.view(bits)[~nan], right.view(bits)[~nan])
    )


class Helpers:
    """What tests of this folder share."""

    layout = staticmethod(make_layout)
    hostile = staticmethod(hostile)
    cast = staticmethod(cast)
    same = staticmethod(same)
    dtypes = DTYPES
    shapes = SHAPES


@pytest.fixture(scope="session")
def helpers() -> type[Helpers]:
    """The functions above, since test folders are no packages."""
    return Helpers


@pytest.fixture(params=kernels.available())
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each kernel of this machine, NumPy included, forced."""
    with kernels.use(request.param):
        yield request.param


@pytest.fixture(params=NATIVE)
def native(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each compiled kernel of this machine, forced."""
    with kernels.use(request.param):
        yield request.param
