"""How the file that a new one is modelled on stores its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tqcli.codecs import Codec, codec
from tqcli.codecs.ggml import BLOCK_BYTES, rotation_size
from tqcli.errors import UsageError, input_error
from tqcli.sources.llamacpp.contents import Contents
from tqcli.sources.llamacpp.file import Rows, SaveFile, Side
from tqcli.sources.llamacpp.model import Model, Shape
from tqcli.sources.llamacpp.plan import MIN_ROTATION, Planner, Rotation
from tqcli.sources.llamacpp.types import FLOAT_TYPES, TypeRules, row_size
from tqcli.sources.llamacpp.wish import Wish

Codecs = tuple[Codec, ...]


@dataclass(frozen=True, eq=False)
class Template:
    """A file whose types and rotation a new one may have.

    Parameters
    ----------
    save : SaveFile
    rules : TypeRules
        How its type numbers are to be read.
    rotation : {"auto", "default", "none"} or int
        How it is rotated, where the file does not record it.
    shapes : tuple of Shape
    """

    save: SaveFile
    rules: TypeRules
    rotation: Rotation
    shapes: tuple[Shape, ...]

    def storage(self, side: Side) -> tuple[Codecs, int]:
        """Codec of each layer, and size of the rotation in front of them.

        Raises
        ------
        InputError
            Its rows do not hold heads of these shapes.
        """
        planner = Planner(self.save, Model(shapes=self.shapes), None, self.rules, self.rotation)
        plans = [planner.plan(side, i, i) for i in range(len(self.shapes))]
        return tuple(plan.codec for plan in plans), plans[0].rotation


def template_of(contents: Contents, source: Mapping[str, Any], wish: Wish) -> Template | None:
    """The probe, or the envelope of the file that the tensors came from; None: there is neither.

    Parameters
    ----------
    contents : Contents
    source : mapping
        Provenance of the tensors: how the file behind them was read.
    wish : Wish

    Raises
    ------
    InputError
        The probe has another number of layers, or the provenance is damaged.
    UsageError
        The probe does not record how it is rotated, and nobody says it.
    """
    if wish.like is not None:
        probe = wish.like
        if len(probe.k) != len(contents.shapes):
            raise input_error(
                probe.path,
                f"{len(probe.k)} layers",
                f"{contents.where} has {len(contents.shapes)}",
                "save a probe from the same model, with a prompt in its cache",
            )
        made = Template(probe, wish.rules, wish.rotation, contents.shapes)
        unsaid = wish.rotation == "auto" and not probe.records_rotation
        if unsaid and any(
            made.rules.name(rows.type) in BLOCK_BYTES for rows in (*probe.k, *probe.v)
        ):
            raise _unsaid(str(probe.path), probe.version)
        return made
    if contents.envelope is None:
        return None
    read = source.get("rotation")
    rotation: Rotation = "auto"
    if isinstance(read, dict) and read.get("from") == "option":
        rotation = read.get("k", "auto")
    try:
        rules = TypeRules(source.get("fork"), tuple(source.get("layouts") or ()))
        return Template(contents.envelope, rules, rotation, contents.shapes)
    except (UsageError, TypeError) as error:
        raise input_error(contents.where, f"provenance: {error}", "it is damaged") from error


def wanted_codecs(name: str, rules: TypeRules, layers: int) -> Codecs:
    """The codec that a user names, for all layers.

    Raises
    ------
    UsageError
        No such type stands in a save file.
    """
    rules.number(name)
    return (codec(name),) * layers


def rotation_wanted(
    side: Side, codecs: Codecs, shapes: tuple[Shape, ...], wish: Wish, version: int, recorded: bool
) -> int:
    """Size of the Hadamard that llama.cpp puts in front of a type, 0 for none.

    Raises
    ------
    UsageError
        Files of this version do not record it, and nobody says it.
    """
    if all(each.id not in BLOCK_BYTES for each in codecs) or wish.rotation == "none":
        return 0
    if isinstance(wish.rotation, int):
        return wish.rotation
    dims = {shape.head_dim(side) for shape in shapes}
    if any(dim % MIN_ROTATION for dim in dims):
        return 0
    if wish.rotation == "auto" and not recorded:
        raise _unsaid("the file", version)
    return min(rotation_size(side, dim) for dim in dims)


def rows_of(
    side: Side, codecs: Codecs, shapes: tuple[Shape, ...], rules: TypeRules, transposed: bool
) -> tuple[Rows, ...]:
    """Type and sizes of the rows of each layer.

    Raises
    ------
    InputError
        A format cannot hold heads of this size.
    UsageError
        A type that is transposed is no float, or has no number.
    """
    found = []
    for one, shape in zip(codecs, shapes, strict=True):
        number, dim = rules.number(one.id), shape.head_dim(side)
        if not transposed:
            one.padded_dim(dim)  # the error says why a head does not fit
            found.append(Rows(number, row_size(one, shape.heads, dim)))
        elif one.id in FLOAT_TYPES:
            found.append(Rows(number, one.block_bytes, shape.heads * dim))
        else:
            raise UsageError(
                f"V of type {one.id} without flash attention: llama.cpp stores V transposed there, "
                "which quantized types cannot be; --flash-attn on, or -ctv f16"
            )
    return tuple(found)


def _unsaid(where: str, version: int) -> UsageError:
    return UsageError(
        f"{where}: version {version} does not record whether quantized values are rotated; say it: "
        "--rotation default (what llama.cpp does since it rotates), none, or the size"
    )
