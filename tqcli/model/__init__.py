"""The model in the loop: a transformers run whose cache passes through a codec.

Nothing here imports torch or transformers before a model is loaded (extra ``tqcli[hf]``).
"""
