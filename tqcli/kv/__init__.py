"""The two containers on disk: dumps of floats and packed caches of blocks."""
