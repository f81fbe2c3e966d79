"""Prompt caches of mlx-lm: what their metadata says of each layer.

A safetensors file with ``{layer}.0`` (keys) and ``{layer}.1`` (values), (batch, heads, tokens,
head_dim), and the flattened tree of Python lists in its metadata::

    before 0.32   0.LAYER state, 1.KEY the caller's own, 2.LAYER class
    from 0.32     0.KEY the caller's own, 1.LAYER class, 2.0 "", 2.N.0 name, 2.N.1 kind of a scalar

From 0.32 on the arrays may be longer than the cache; ``{layer}.2`` is the number of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tqcli.errors import InputError, input_error
from tqcli.sources.arrays.files import StoredArray

_ROTATING = "RotatingKVCache"
PLAIN = "KVCache"
_FLOAT = (PLAIN, "ChunkedKVCache", "ConcatenateKVCache", _ROTATING)
_RECURRENT = ("MambaCache", "ArraysCache")
_COUNT = re.compile(r"(\d{1,6})\.2")


@dataclass
class MlxLayers:
    """Layers of a prompt cache.

    Attributes
    ----------
    skipped : dict of int to str
        Layers that hold no K and V, with the reason.
    tokens : dict of int to int
        Tokens of a layer whose arrays may be longer.
    notes : list of str
        Sentences about the others.
    """

    skipped: dict[int, str] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def is_since_032(metadata: Mapping[str, str]) -> bool:
    """Whether mlx-lm 0.32 or later wrote it: there, the place of the first class is empty."""
    return metadata.get("2.0") == ""


def mlx_layers(where: str, metadata: Mapping[str, str], arrays: Sequence[StoredArray]) -> MlxLayers:
    """Look at the classes of the layers, and at their numbers of tokens.

    Raises
    ------
    InputError
        A layer's cache is quantized, of a class that is not known, or its count is damaged.
    """
    new, found = is_since_032(metadata), MlxLayers()
    classes = re.compile(rf"{1 if new else 2}\.(\d{{1,6}})")
    for key, name in metadata.items():
        layer = classes.fullmatch(key)
        if layer is not None and name == _ROTATING:
            found.notes.append(f"layers.{layer[1]}: {name}: a ring, its tokens may not be in order")
        if layer is None or name in _FLOAT:
            continue
        if name not in _RECURRENT:
            raise InputError(
                f"{where}: layer {layer[1]} is a {name}; legal are {', '.join(_FLOAT)};"
                " save the prompt cache without --kv-bits"
            )
        found.skipped[int(layer[1])] = f"{name}: recurrent state, no K or V per token"
    for array in arrays if new else ():
        count = _COUNT.fullmatch(array.name)
        if count is None or int(count[1]) in found.skipped:
            continue
        if array.shape or array.dtype.kind != "i":
            raise input_error(array.where, f"{array.dtype} {array.shape}", "a number of tokens")
        tokens = int(array.slab({}))
        if tokens < 0:
            raise input_error(array.where, f"{tokens} tokens", "0 or more")
        found.tokens[int(count[1])] = tokens
    return found
