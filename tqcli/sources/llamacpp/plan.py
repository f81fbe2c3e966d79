"""Decide how each tensor of a save file is decoded: type, heads, rotation, order within a head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqcli.codecs import codec
from tqcli.codecs.ggml import BLOCK_BYTES, rotation_size
from tqcli.errors import UsageError, input_error
from tqcli.sources.llamacpp.archs import INTERLEAVED
from tqcli.sources.llamacpp.file import Rows, SaveFile, Side
from tqcli.sources.llamacpp.model import Model
from tqcli.sources.llamacpp.rows import Plan
from tqcli.sources.llamacpp.types import FLOAT_TYPES, GGML_TYPES, TypeRules

Rotation = Literal["auto", "default", "none"] | int
MIN_ROTATION = 64  # llama.cpp rotates heads whose size is a multiple of this
# First versions whose writers are known to rotate quantized caches; they do not record it yet.
_SURELY_ROTATED = {"session": 10, "sequence": 3}


@dataclass(frozen=True)
class Planner:
    """One save file, one model, and the caller's rules.

    Parameters
    ----------
    save : SaveFile
    model : Model
    arch : str or None
        Architecture, if anything named it.
    rules : TypeRules
    rotation : {"auto", "default", "none"} or int
        Size of the Hadamard rotation in front of quantized values; "default" is llama.cpp's own
        for each side, "auto" what the file records.
    """

    save: SaveFile
    model: Model
    arch: str | None
    rules: TypeRules
    rotation: Rotation

    def __post_init__(self) -> None:
        """Check the rotation."""
        size = self.rotation
        if size in ("auto", "default", "none"):
            return
        if not isinstance(size, int) or size < MIN_ROTATION or size & (size - 1):
            raise UsageError(
                f"--rotation {size}: legal are auto, default, none, and powers of two from "
                f"{MIN_ROTATION}"
            )

    def rows(self, side: Side, index: int) -> Rows:
        """Storage of one side of the `index`-th layer of the file."""
        return self.save.k[index] if side == "k" else self.save.v[index]

    def plan(self, side: Side, index: int, layer: int) -> Plan:
        """Decide for one tensor; `layer` is its number in the model.

        Raises
        ------
        InputError
            The rows do not fit the model, or their type means nothing here.
        UsageError
            Nothing says how many heads there are.
        """
        rows, where = self.rows(side, index), self.where(side, layer)
        shape = self.model.shape(self.save, index, layer)
        if shape is None:
            raise unknown_heads(self.save.path)
        heads, head_dim = shape.heads, shape.head_dim(side)
        if rows.columns:
            self._check_transposed(rows, heads * head_dim, where)
            kind = codec(GGML_TYPES[rows.type])
        else:
            kind = self.rules.resolve(rows.type, rows.row_bytes, heads, head_dim, where)
        size = self._rotation(side, kind.id, head_dim, where)
        if size and head_dim % size:
            raise input_error(where, f"rotation of {size}", f"it must divide head_dim {head_dim}")
        return Plan(kind, heads, head_dim, size, side == "k" and self.arch in INTERLEAVED)

    def where(self, side: Side, layer: int) -> str:
        """Name a tensor in messages."""
        return f"{self.save.path}: layers.{layer}.{side}"

    def _check_transposed(self, rows: Rows, values: int, where: str) -> None:
        name = self.rules.name(rows.type)
        if name not in FLOAT_TYPES:
            raise input_error(where, f"transposed values of type {name}", "legal: f32, f16, bf16")
        size = codec(name).block_bytes
        if rows.row_bytes != size or rows.columns != values:
            raise input_error(
                where,
                f"{rows.columns} values of {rows.row_bytes} bytes a token",
                f"the model has {values} of {size} bytes",
                "check the model, --heads and --head-dim",
            )

    def _rotation(self, side: Side, kind: str, head_dim: int, where: str) -> int:
        """Size of the Hadamard rotation in front of the stored values, 0 for none.

        Newer files record it. Of those that do not, version 10 (session) and 3 (sequence) come
        from programs that rotate every quantized cache whose head_dim is a multiple of 64, unless
        told not to; older ones exist of both kinds. The turbo forks leave it off: their types
        rotate by themselves.
        """
        if self.rotation == "auto" and self.save.rotation is not None:
            return self.save.rotation[side == "v"]
        if kind in FLOAT_TYPES or self.rotation == "none":
            return 0
        if isinstance(self.rotation, int):
            return self.rotation
        if head_dim % MIN_ROTATION or kind not in BLOCK_BYTES:
            return 0
        size = rotation_size(side, head_dim)
        if self.rotation == "default":
            return size
        if self.rules.fork is not None:
            return 0
        if self.save.version < _SURELY_ROTATED[self.save.kind]:
            raise input_error(
                where,
                f"{kind} in a {self.save.kind} file of version {self.save.version}",
                "such files were written before and after llama.cpp rotated quantized caches",
                f"say which: --rotation none or --rotation default ({size}), or --fork",
            )
        return size


def unknown_heads(path: Path) -> UsageError:
    """The error for a save file of which nothing says how many heads there are."""
    return UsageError(
        f"{path}: does not say how many heads there are; give --model FILE.gguf, or --heads and "
        "--head-dim"
    )
