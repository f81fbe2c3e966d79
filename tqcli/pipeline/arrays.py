"""Fitting and measuring plain arrays: the same arithmetic, no files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.codebook import Codebook, Histogram, fit
from tqcli.codecs.base import require_finite
from tqcli.errors import InputError
from tqcli.metrics import Stats
from tqcli.pipeline.fit import FitOptions, add_vectors


def evaluate(x: NDArray[Any], decoded: NDArray[Any]) -> dict[str, float | int | None]:
    """Measure decoded vectors against the originals.

    Parameters
    ----------
    x, decoded : float arrays of one shape, (..., seq_len, head_dim)
        The leading axes are heads (and sequences): the mean of K, which softmax ignores, is
        taken over ``seq_len``, for each by itself.

    Returns
    -------
    dict
        ``vectors``, ``mse``, ``nmse``, ``cosine_mean``, ``cosine_p50``, ``cosine_p1``,
        ``cosine_p01``, ``cosine_min`` and ``max_abs_error`` of all vectors together; then, for K,
        ``centred_nmse``, ``offset_ratio`` and ``kurtosis``. ``tq figures`` and
        ``docs/figures.md`` say what each is. None where there is nothing to measure.

    Raises
    ------
    InputError
        If the shapes differ, there are fewer than two axes, or a value is not finite.

    Examples
    --------
    >>> import numpy as np, tqcli
    >>> k = np.random.default_rng(7).standard_normal((2, 64, 128), np.float32)
    >>> turbo3 = tqcli.codec("turbo3")
    >>> round(tqcli.evaluate(k, turbo3.decode(turbo3.encode(k)))["cosine_mean"], 2)
    0.98
    """
    if x.shape != decoded.shape or x.ndim < 2:
        raise InputError(
            f"evaluate: shapes {x.shape} and {decoded.shape}; "
            "two equal shapes (..., seq_len, head_dim) are legal"
        )
    for name, array in (("first", x), ("second", decoded)):
        if not np.isfinite(array).all():
            raise InputError(f"evaluate: the {name} array holds NaN or Inf; give finite values")
    stats = Stats(offset=True)
    pairs = zip(x.reshape(-1, *x.shape[-2:]), decoded.reshape(-1, *x.shape[-2:]), strict=True)
    for head, (a, b) in enumerate(pairs):
        stats.add(a, b, row=head)
    return stats.measures() | stats.offset_measures()


def fit_codebook(
    x: NDArray[Any], bits: int = 3, *, group: int = 128, symmetric: bool = True
) -> Codebook:
    """Fit a Lloyd-Max codebook to vectors, as the turbo family sees them.

    Parameters
    ----------
    x : float array, shape (..., head_dim)
        Each group of `group` values is brought to unit length and rotated.
    bits : int
        2, 3 or 4: what the turbo family takes.
    group : {64, 128}
    symmetric : bool
        Levels mirror around zero.

    Returns
    -------
    Codebook
        In units of unit vectors of `group` values; ``tqcli.codec("turbo3", codebook=...)`` takes
        it.

    Examples
    --------
    >>> import numpy as np, tqcli
    >>> k = np.random.default_rng(7).standard_normal((4096, 128), np.float32)
    >>> book = tqcli.fit_codebook(k, bits=3)
    >>> tqcli.codec("turbo3", codebook=book).encode(k).shape
    (4096, 1, 50)
    """
    options = FitOptions(bits=bits, group=group, symmetric=symmetric)
    flat = x.reshape(-1, x.shape[-1])
    require_finite(flat)
    histogram = Histogram()
    add_vectors(histogram, flat, options)
    return fit(histogram, bits, group, "fitted", symmetric=symmetric)
