"""Some layers of a source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tqcli.errors import UsageError
from tqcli.sources.base import Named, Source, SourceInfo


def parse_layers(text: str) -> frozenset[int]:
    """Read ``0,7,15-17``.

    Examples
    --------
    >>> sorted(parse_layers("0,7,15-17"))
    [0, 7, 15, 16, 17]
    """
    layers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal() or len(last or first) > 6:
            raise UsageError(f"--layers {text}: legal are numbers and ranges, such as 0,7,15-17")
        layers |= set(range(int(first), int(last or first) + 1))
    return frozenset(layers)


class SelectedLayers:
    """A source of which only some layers come; what belongs to no layer comes too.

    Parameters
    ----------
    source : Source
    layers : set of int

    Raises
    ------
    UsageError
        The source has no such layer.
    """

    def __init__(self, source: Source, layers: frozenset[int]) -> None:
        self._source, self._layers = source, layers
        names = (spec.name for spec in source.describe().tensors)
        missing = layers - {layer for name in names if (layer := _layer_of(name)) is not None}
        if missing or not layers:
            raise UsageError(f"--layers: no layer {sorted(missing)} with K and V in the source")

    def describe(self) -> SourceInfo:
        """The source's description without the tensors that do not come."""
        info = self._source.describe()
        return replace(info, tensors=tuple(s for s in info.tensors if self._wants(s.name)))

    def tensors(self) -> Iterator[Named]:
        """The source's tensors of these layers."""
        return (named for named in self._source.tensors() if self._wants(named[0]))

    def _wants(self, name: str) -> bool:
        layer = _layer_of(name)
        return layer is None or layer in self._layers


def _layer_of(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "layers" else None
