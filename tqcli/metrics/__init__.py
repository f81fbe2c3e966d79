"""Measures of what a codec did, as accumulators that merge across pieces, heads and shards."""

from tqcli.metrics.null import null_model, null_stats, z_score
from tqcli.metrics.offset import OffsetStats
from tqcli.metrics.vector import VectorStats

__all__ = ["OffsetStats", "VectorStats", "null_model", "null_stats", "z_score"]
