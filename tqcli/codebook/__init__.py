"""Codebooks: Lloyd-Max exact or from data, and trellis tables; as files with provenance."""

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
from tqcli.codebook.trellis import TrellisTable, read_trellis, stock_trellis, trellis_from

__all__ = [
    "Codebook",
    "CodebookSet",
    "Histogram",
    "TrellisTable",
    "distortion",
    "distortion_on_gaussian",
    "dumps",
    "exact_set",
    "find_codebook",
    "fit",
    "lloyd_max",
    "loads",
    "read_codebook",
    "read_trellis",
    "shipped",
    "stock",
    "stock_trellis",
    "table_from",
    "trellis_from",
]
