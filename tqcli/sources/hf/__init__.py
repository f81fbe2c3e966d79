"""A transformers model, run over texts."""
