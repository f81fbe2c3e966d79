"""The bench for KV-cache quantization: exact blocks, honest measures, real tensors.

What the command ``tq`` does, these names do with NumPy arrays and no files::

    codec, codec_ids         a format by id: encode, decode, codes, bits_per_value
    fit_codebook             Lloyd-Max codebook of arrays
    evaluate                 what decoding did to the vectors, and to K without its mean
    open_dump, open_packed   containers on disk
    quantize, unpack         dump -> packed cache -> dump
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqcli.codecs import codec, codec_ids
    from tqcli.kv.dump import open_dump
    from tqcli.kv.packed import open_packed
    from tqcli.pipeline.arrays import evaluate, fit_codebook
    from tqcli.pipeline.cachetype import CacheType
    from tqcli.pipeline.quantize import quantize
    from tqcli.pipeline.unpack import unpack
    from tqcli.version import __version__

# Imported when first used: `tq --help` must not wait for NumPy.
_HOME = {
    "__version__": "tqcli.version",
    "CacheType": "tqcli.pipeline.cachetype",
    "codec": "tqcli.codecs",
    "codec_ids": "tqcli.codecs",
    "evaluate": "tqcli.pipeline.arrays",
    "fit_codebook": "tqcli.pipeline.arrays",
    "open_dump": "tqcli.kv.dump",
    "open_packed": "tqcli.kv.packed",
    "quantize": "tqcli.pipeline.quantize",
    "unpack": "tqcli.pipeline.unpack",
}

__all__ = [
    "CacheType",
    "__version__",
    "codec",
    "codec_ids",
    "evaluate",
    "fit_codebook",
    "open_dump",
    "open_packed",
    "quantize",
    "unpack",
]


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'tqcli' has no attribute {name!r}")
