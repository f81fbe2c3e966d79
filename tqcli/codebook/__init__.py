"""Lloyd-Max codebooks: exact for a density, from data, and as files with provenance."""

from tqcli.codebook.exact import distortion_on_gaussian, lloyd_max
from tqcli.codebook.files import (
    CodebookSet,
    dumps,
    exact_set,
    find_codebook,
    loads,
    read_codebook,
    shipped,
    stock,
    table_from,
)
from tqcli.codebook.histogram import Histogram, distortion, fit
from tqcli.codebook.table import Codebook

__all__ = [
    "Codebook",
    "CodebookSet",
    "Histogram",
    "distortion",
    "distortion_on_gaussian",
    "dumps",
    "exact_set",
    "find_codebook",
    "fit",
    "lloyd_max",
    "loads",
    "read_codebook",
    "shipped",
    "stock",
    "table_from",
]
