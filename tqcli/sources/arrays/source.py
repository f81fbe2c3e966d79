"""Plain arrays as a source: K, V and Q that somebody already has on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli.errors import InputError, UsageError, input_error
from tqcli.sources.arrays.axes import SIDES, Axes
from tqcli.sources.arrays.files import SUFFIXES, Opened, StoredArray, opened
from tqcli.sources.arrays.mlx import is_since_032, mlx_layers
from tqcli.sources.arrays.names import PRESETS, Pattern, preset_axes
from tqcli.sources.base import Named, SourceInfo, TensorSpec

_MAX_LAYERS = 4096
_DEFAULT_PATTERN = "layers.{layer}.{side}"


@dataclass(frozen=True)
class Choice:
    """How the arrays are to be read: a preset, or a pattern and an axis order.

    Parameters
    ----------
    preset : str or None
        ``mlx``, ``vllm`` or ``lmcache``.
    pattern : str or None
        Names of the arrays, see :class:`tqcli.sources.arrays.names.Pattern`; a file with a single
        array needs none.
    axes : str
        Axis order, such as ``layer,batch,head,seq,dim``.
    heads : int or None
        Number of heads where one axis (``hidden``) holds them all.
    side : {"k", "v", "q"} or None
        Of arrays whose names and axes do not say it.
    """

    preset: str | None = None
    pattern: str | None = None
    axes: str | None = None
    heads: int | None = None
    side: str | None = None

    def __post_init__(self) -> None:
        """Refuse what excludes itself."""
        if self.preset is not None and self.preset not in PRESETS:
            raise UsageError(f"--preset {self.preset}: legal are {', '.join(PRESETS)}")
        if self.preset is not None and (self.pattern or self.axes):
            raise UsageError("--preset: excludes --pattern and --axes")
        if self.side is not None and self.side not in SIDES:
            raise UsageError(f"--side {self.side}: legal are {', '.join(SIDES)}")


@dataclass(frozen=True)
class _Piece:
    """One tensor to come: where it lies and how its axes run."""

    layer: int
    side: str
    array: StoredArray
    axes: Axes
    index: int  # along the array's layer axis, if it has one


class ArraysSource:
    """K, V and Q out of .npy, .npz and .safetensors files.

    Parameters
    ----------
    paths : sequence of path
        Files or one folder; several files are read as one set, as a folder is.
    choice : Choice

    Raises
    ------
    InputError
        A file is damaged, an array is none of float tensors, or none matches.
    UsageError
        The choice does not say what is needed.
    """

    def __init__(self, paths: Sequence[Path], choice: Choice | None = None) -> None:
        self.choice = choice or Choice()
        if not paths:
            raise UsageError(f"arrays: no file given; legal are {', '.join(SUFFIXES)}")
        self._stack = ExitStack()
        try:
            self.paths = tuple(paths)
            found = [self._stack.enter_context(opened(path)) for path in paths]
            self._arrays = [array for part in found for array in part.arrays]
            self._skipped: dict[int, str] = {}
            self._tokens: dict[int, int] = {}  # of layers whose arrays may be longer
            self._notes: list[str] = []
            if self.choice.preset == "mlx":
                for path, part in zip(paths, found, strict=True):
                    self._look_at_mlx(str(path), part)
            self._unmatched: list[str] = []
            self._pieces = self._plan()
        except BaseException:
            self._stack.close()
            raise

    def _look_at_mlx(self, where: str, part: Opened) -> None:
        layers = mlx_layers(where, part.metadata, part.arrays)
        self._skipped |= layers.skipped
        self._tokens |= layers.tokens
        self._notes += layers.notes
        if is_since_032(part.metadata):  # numbers beside keys and values are no tensors to match
            numbers = {a.where for a in part.arrays if len(a.shape) < 2}
            self._arrays = [a for a in self._arrays if a.where not in numbers]

    def describe(self) -> SourceInfo:
        """What comes, from the files' headers alone."""
        specs = [
            TensorSpec(
                f"layers.{piece.layer}.{piece.side}",
                self._shape(piece),
                _dtype(piece.array).name,
                str(piece.array.dtype),
            )
            for piece in self._pieces
        ]
        known = self.choice.preset is not None
        heads = {p.side: p.axes.standard_shape(p.array.shape)[1] for p in self._pieces}
        provenance: dict[str, Any] = {
            "kind": f"arrays ({self.choice.preset})" if known else "arrays",
            "model": self.paths[0].name,
            "revision": None,
            "config_sha256": None,
            "tokens_sha256": None,
            "num_tokens": specs[0].shape[0] * specs[0].shape[2],
            "rope": {"kind": "unknown", "inv_freq": [], "pairs": "half", "magnitude": 1.0},
            "k": "after RoPE" if known else "unknown",
            "gqa_ratio": heads["q"] // heads["k"] if {"q", "k"} <= set(heads) else None,
            "axes": sorted({",".join(piece.axes.names) for piece in self._pieces}),
            "skipped_layers": {str(i): reason for i, reason in self._skipped.items()},
        }
        notes = [f"layers.{i}: skipped: {reason}" for i, reason in sorted(self._skipped.items())]
        notes += [f"{name}: matches no layer and side; left out" for name in self._unmatched]
        notes += self._notes + self._incomplete()
        return SourceInfo(tuple(specs), provenance, tuple(notes))

    def tensors(self) -> Iterator[Named]:
        """Yield ``layers.{i}.k``, ``.v``, ``.q`` as ``(batch, heads, seq_len, head_dim)``."""
        for piece in self._pieces:
            slab = piece.array.slab(piece.axes.fixed(piece.index, piece.side))
            values = piece.axes.standard(slab)[:, :, : self._tokens.get(piece.layer)]
            yield f"layers.{piece.layer}.{piece.side}", _narrow(piece, np.ascontiguousarray(values))

    def _shape(self, piece: _Piece) -> tuple[int, ...]:
        """Shape of a tensor: no more tokens than the layer is said to have."""
        batch, heads, tokens, dim = piece.axes.standard_shape(piece.array.shape)
        return batch, heads, min(tokens, self._tokens.get(piece.layer, tokens)), dim

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def __enter__(self) -> ArraysSource:
        """The source itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self.close()

    def _plan(self) -> list[_Piece]:
        places: dict[tuple[int, str], _Piece] = {}
        pattern = self._pattern()
        for array in self._arrays:
            matched = (None, None) if pattern is None else pattern.match(array.name)
            if matched is None:
                self._unmatched.append(array.name)
                continue
            if matched[0] is not None and matched[0] in self._skipped:
                continue
            for piece in self._pieces_of(array, *matched):
                if (piece.layer, piece.side) in places:
                    first = places[piece.layer, piece.side].array.where
                    raise InputError(
                        f"{array.where}: layer {piece.layer} {piece.side} was in {first} already;"
                        " narrow the --pattern"
                    )
                places[piece.layer, piece.side] = piece
        if not places:
            names = ", ".join(array.name for array in self._arrays[:5])
            text = pattern.text if pattern else "*"
            raise input_error(
                self.paths[0], f"no array matches {text!r}", f"there are: {names or 'none'}",
                "give --pattern or --preset",
            )  # fmt: skip
        return sorted(places.values(), key=lambda p: (p.layer, SIDES.index(p.side)))

    def _pattern(self) -> Pattern | None:
        """The pattern in force; None for a single array that axes or --side describe."""
        if self.choice.preset is not None:
            return Pattern(PRESETS[self.choice.preset].pattern)
        if self.choice.pattern is not None:
            return Pattern(self.choice.pattern)
        named = Pattern(_DEFAULT_PATTERN)
        is_alone = len(self._arrays) == 1 and named.match(self._arrays[0].name) is None
        return None if is_alone else named

    def _pieces_of(
        self, array: StoredArray, layer: int | None, side: str | None
    ) -> Iterator[_Piece]:
        axes = self._axes(array)
        axes.check(array.where, array.shape)
        shape = axes.standard_shape(array.shape)
        if 0 in (*shape, axes.length("layer", array.shape)):
            raise InputError(f"{array.where}: shape {array.shape} has an empty axis")
        has_layer, has_side = "layer" in axes.names, "side" in axes.names
        if (has_layer and layer is not None) or (has_side and side is not None):
            raise UsageError(
                f"{array.where}: both its name and its axes say the layer or the side;"
                " leave it out of --pattern or of --axes"
            )
        side = side or self.choice.side
        if not has_side and side is None:
            raise UsageError(
                f"{array.where}: K, V or Q? legal are {{side}} in --pattern, 'side' in --axes,"
                " or --side"
            )
        count = axes.length("layer", array.shape)
        if count > _MAX_LAYERS:
            raise InputError(f"{array.where}: {count} layers; legal is up to {_MAX_LAYERS}")
        for index in range(count):
            for one in ("k", "v") if has_side else (side or "k",):
                number = index if has_layer else (layer or 0)
                yield _Piece(number, one, array, axes, index)

    def _axes(self, array: StoredArray) -> Axes:
        _dtype(array)
        if self.choice.preset is not None:
            rank, heads = len(array.shape), self.choice.heads
            return preset_axes(self.choice.preset, array.where, rank, heads)
        if self.choice.axes is None:
            if len(array.shape) == 4:
                return Axes.parse("batch,head,seq,dim")
            raise UsageError(
                f"{array.where}: shape {array.shape}; say what its axes are, for example"
                " --axes layer,batch,head,seq,dim"
            )
        return Axes.parse(self.choice.axes, self.choice.heads)

    def _incomplete(self) -> list[str]:
        have = {(piece.layer, piece.side) for piece in self._pieces}
        layers = {layer for layer, _ in have}
        return [
            f"layers.{layer}.{side}: missing"
            for layer in sorted(layers)
            for side in ("k", "v")
            if (layer, side) not in have
        ]


def _dtype(array: StoredArray) -> np.dtype[Any]:
    """What is handed out: float64 becomes float32, other floats stay."""
    if array.dtype.name in ("float16", "float32", "bfloat16"):
        return array.dtype
    if array.dtype.name == "float64":
        return np.dtype(np.float32)
    raise InputError(
        f"{array.where}: dtype {array.dtype}; legal are float16, bfloat16, float32 and float64"
    )


def _narrow(piece: _Piece, values: NDArray[Any]) -> NDArray[Any]:
    """float64 as float32; a finite value that does not fit is an error."""
    dtype = _dtype(piece.array)
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore"):  # looked for below
        narrow = values.astype(dtype)
    if (np.isfinite(values) & ~np.isfinite(narrow)).any():
        raise InputError(f"{piece.array.where}: a float64 value does not fit into float32")
    return narrow
