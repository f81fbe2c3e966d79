"""What must be known about the model to read a save file: heads, sizes, the order within a head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tqcli.codecs import codec
from tqcli.errors import UsageError, input_error
from tqcli.rope import UNKNOWN_ROPE, Rope
from tqcli.sources.llamacpp.archs import HALVES, INTERLEAVED
from tqcli.sources.llamacpp.file import SaveFile, Side
from tqcli.sources.llamacpp.gguf_header import GgufHeader
from tqcli.sources.llamacpp.types import GGML_TYPES

DEFAULT_THETA = 10000.0  # llama.cpp's, where the file gives none


@dataclass(frozen=True)
class Shape:
    """Heads and vector sizes of one layer."""

    heads: int
    head_dim_k: int
    head_dim_v: int

    def head_dim(self, side: Side) -> int:
        """Values of a vector of one side."""
        return self.head_dim_k if side == "k" else self.head_dim_v


@dataclass(frozen=True)
class Model:
    """A GGUF's metadata, the caller's own numbers, or what both leave open.

    Parameters
    ----------
    header : GgufHeader, optional
    heads, head_dim, head_dim_v : int, optional
        K/V heads and vector sizes; instead of a header. One of heads and head_dim is enough for
        rows without padding; `head_dim_v` is `head_dim` unless given.
    arch : str, optional
        ggml's name of the architecture; the header's and the save file's come first.
    shapes : tuple of Shape, optional
        Heads and sizes of each layer of the file, known from tensors that will be written.
    """

    header: GgufHeader | None = None
    heads: int | None = None
    head_dim: int | None = None
    head_dim_v: int | None = None
    arch: str | None = None
    shapes: tuple[Shape, ...] | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        numbers = {"--heads": self.heads, "--head-dim": self.head_dim}
        numbers["--head-dim-v"] = self.head_dim_v
        for flag, value in numbers.items():
            if value is not None and not 1 <= value < 1 << 20:
                raise UsageError(f"{flag} {value}: give a positive number")
        if self.header is not None and any(v is not None for v in numbers.values()):
            raise UsageError(f"{', '.join(numbers)} come from --model; give one or the other")

    @property
    def is_open(self) -> bool:
        """Whether nothing tells heads and sizes."""
        return all(x is None for x in (self.header, self.heads, self.head_dim, self.shapes))

    def arch_of(self, save: SaveFile) -> str | None:
        """Architecture by name; what names it must agree.

        Raises
        ------
        InputError
            The save file was written by another architecture.
        """
        said = [self.header.arch if self.header else self.arch, save.arch]
        names = [name for name in said if name is not None]
        if len(set(names)) > 1:
            raise input_error(
                save.path, f"saved by a {save.arch} model", f"the model given is {names[0]}"
            )
        return names[0] if names else None

    def layers(self, save: SaveFile) -> list[int]:
        """Model layer of each layer in the file: those with attention, in order.

        Raises
        ------
        InputError
            The model has another number of them.
        """
        count = len(save.k)
        if self.header is None or not save.streams:
            return list(range(count))
        layers = [i for i, heads in enumerate(self.header.kv_heads) if heads]
        if len(layers) != count:
            raise input_error(
                save.path,
                f"{count} layers",
                f"{self.header.name} has {len(layers)} with attention",
                "check --model",
            )
        return layers

    def shape(self, save: SaveFile, index: int, layer: int) -> Shape | None:
        """Heads and sizes of the `index`-th layer of the file; None if nothing tells them.

        Raises
        ------
        InputError
            The numbers contradict the file.
        """
        if self.shapes is not None:
            return self.shapes[index]
        if self.header is not None:
            header = self.header
            return Shape(header.kv_heads[layer], header.head_dim_k, header.head_dim_v)
        if self.heads is None and self.head_dim is None:
            return None
        if self.heads is not None and self.head_dim is not None:
            return Shape(self.heads, self.head_dim, self.head_dim_v or self.head_dim)
        values_k, values_v = (self._row_values(save, side, index) for side in ("k", "v"))
        if self.heads is not None:
            if values_k % self.heads or values_v % self.heads:
                raise input_error(
                    save.path,
                    f"layer {layer}: rows of {values_k} and {values_v} values",
                    f"{self.heads} heads do not divide them",
                    "check --heads",
                )
            return Shape(self.heads, values_k // self.heads, values_v // self.heads)
        head_dim = self.head_dim or 1
        if values_k % head_dim:
            raise input_error(
                save.path,
                f"layer {layer}: rows of {values_k} values",
                f"no multiple of {head_dim}",
                "check --head-dim",
            )
        return Shape(values_k // head_dim, head_dim, self.head_dim_v or head_dim)

    def _row_values(self, save: SaveFile, side: str, index: int) -> int:
        rows = save.k[index] if side == "k" else save.v[index]
        if rows.columns:
            return rows.columns
        values = plain_values(rows.type, rows.row_bytes)
        if values is None:
            raise UsageError(
                f"{save.path}: rows of ggml type {rows.type}, {rows.row_bytes} bytes, are padded "
                "or unknown; give --model, or both --heads and --head-dim"
            )
        return values

    def rope(self, arch: str | None) -> Rope:
        """What the model did to K, in the order that the tensors come in; ``unknown`` if unsure."""
        unknown = Rope(UNKNOWN_ROPE)
        header = self.header
        if header is None or header.uses_mrope or header.rope_factors:
            return unknown
        scaling = header.rope.get("scaling", "none")
        factor = header.rope.get("scaling_factor", 1.0)
        if arch not in INTERLEAVED | HALVES or scaling not in ("none", "linear"):
            return unknown
        dims = header.rope.get("dims", header.head_dim_k)
        theta = header.rope.get("theta", DEFAULT_THETA)
        if not (0 < dims <= header.head_dim_k and dims % 2 == 0 and theta > 0 and factor > 0):
            return unknown
        inv_freq = theta ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)
        if scaling == "linear":
            inv_freq /= factor
        return Rope(
            kind="default" if scaling == "none" else "linear",
            inv_freq=tuple(inv_freq.astype(np.float32).tolist()),
            theta=theta,
            scaling={} if scaling == "none" else {"factor": factor},
        )


def plain_values(kind: int, row_bytes: int) -> int | None:
    """Values in a row of an upstream type; None for other types and broken sizes."""
    if kind not in GGML_TYPES:
        return None
    one = codec(GGML_TYPES[kind])
    blocks, rest = divmod(row_bytes, one.block_bytes)
    return None if rest else blocks * one.values_per_block
