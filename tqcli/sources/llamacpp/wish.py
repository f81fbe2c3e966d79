"""What the caller asks of a save file that is to be written."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tqcli.errors import UsageError
from tqcli.sources.llamacpp.file import VERSIONS, Kind, SaveFile, Side
from tqcli.sources.llamacpp.plan import Rotation
from tqcli.sources.llamacpp.types import TypeRules

# From which release of llama.cpp on files have which version.
_RELEASES: tuple[tuple[tuple[int, int], dict[Kind, int]], ...] = (
    ((0, 6), {"session": 11, "sequence": 4}),
    ((0, 5), {"session": 10, "sequence": 3}),
    ((0, 0), {"session": 9, "sequence": 2}),
)
_RELEASE = re.compile(r"v?([0-9]{1,4})\.([0-9]{1,4})(\.[0-9]{1,6})?")


@dataclass(frozen=True)
class Wish:
    """What the caller asks for; the rest is as in the file that the new one is modelled on.

    Parameters
    ----------
    like : SaveFile, optional
        A file that the target server saved (a *probe*); the new one is like it in everything but
        cells and tokens.
    engine_version : str, optional
        A release of llama.cpp (``0.7.0``) or a version of the file (sequence 2 to 4, session 9
        to 11).
    type_k, type_v : str, optional
        Cache types.
    flash_attention : bool, optional
        Without it, V is stored transposed.
    rules : TypeRules
        Whose numbers the turbo types have, and which layouts are meant.
    rotation : {"auto", "default", "none"} or int
        Hadamard in front of quantized types; "auto" is as recorded, or llama.cpp's default in
        versions that record it.

    Raises
    ------
    UsageError
        A wish contradicts the probe.
    """

    like: SaveFile | None = None
    engine_version: str | None = None
    type_k: str | None = None
    type_v: str | None = None
    flash_attention: bool | None = None
    rules: TypeRules = field(default_factory=TypeRules)
    rotation: Rotation = "auto"

    def __post_init__(self) -> None:
        """Compare with the probe."""
        if self.like is None:
            return
        others = {
            "--engine-version": self.engine_version,
            "--cache-type-k": self.type_k,
            "--cache-type-v": self.type_v,
            "--flash-attn": self.flash_attention,
            "--rotation": self.rotation if self.like.records_rotation else None,
        }
        for name, value in others.items():
            if value not in (None, "auto"):
                raise UsageError(f"{name}: {self.like.path} says it; leave one of them out")

    def type(self, side: Side) -> str | None:
        """Cache type of one side, if asked for."""
        return self.type_k if side == "k" else self.type_v

    def version(self, kind: Kind) -> tuple[Kind, int] | None:
        """Kind and version of the file, if asked for; a release leaves the kind as it is.

        Examples
        --------
        >>> Wish(engine_version="0.5.2").version("session")
        ('session', 10)
        >>> Wish(engine_version="4").version("session")
        ('sequence', 4)
        """
        if self.engine_version is None:
            return None
        if (release := _RELEASE.fullmatch(self.engine_version)) is not None:
            number = int(release[1]), int(release[2])
            return kind, next(made[kind] for first, made in _RELEASES if number >= first)
        for other, versions in VERSIONS.items():
            if self.engine_version in map(str, versions):
                return other, int(self.engine_version)
        files = "; ".join(f"{k} {', '.join(map(str, v))}" for k, v in VERSIONS.items())
        raise UsageError(
            f"--engine-version {self.engine_version}: give a release of llama.cpp, such as 0.7.0, "
            f"or a version of the file: {files}"
        )
