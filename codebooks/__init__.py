"""Reviewed codebook files, one JSON document each; see ``README.md`` here for their origin."""
