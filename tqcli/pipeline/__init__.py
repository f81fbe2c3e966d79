"""The whole jobs over files: fit, quantize, unpack, evaluate, compare. Commands only call these."""
