"""Measures of what a codec did, as accumulators that merge across pieces, heads and shards."""

from tqcli.metrics.null import null_model, null_stats, z_score
from tqcli.metrics.stats import OFFSET_MEASURES, VECTOR_MEASURES, Stats

__all__ = ["OFFSET_MEASURES", "VECTOR_MEASURES", "Stats", "null_model", "null_stats", "z_score"]
