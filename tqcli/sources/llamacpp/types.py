"""ggml type numbers in a save file, and which fork means what by the ones that collide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tqcli.codecs import Codec, codec
from tqcli.errors import InputError, UsageError, input_error

# Cache types of upstream llama.cpp; the names are codec ids too.
GGML_TYPES = {
    0: "f32",
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    20: "iq4_nl",
    30: "bf16",
}
FLOAT_TYPES = ("f32", "f16", "bf16")

# Layouts that a fork can have written, by the name of their type. Of some only the tables differ.
LAYOUTS = (
    "turbo2",
    "turbo2-b32",
    "turbo3",
    "turbo3@2026-03",
    "turbo3-b32",
    "turbo3-v0",
    "turbo3-qjl",
    "turbo3-qjl@shipped",
    "turbo4",
    "turbo4@2026-03",
    "turbo4-qjl",
)

# fork -> type number -> the layouts that it has written under that number. The size of the rows
# chooses among them; where it leaves several, the caller must. A name that is no layout is a type
# that we know of and cannot decode.
FORKS: dict[str, dict[int, tuple[str, ...]]] = {
    "f9841e0ad": {
        41: ("turbo3-b32", "turbo3-v0", "turbo3-qjl", "turbo3-qjl@shipped", "turbo3@2026-03"),
        42: ("turbo4@2026-03", "turbo4-qjl"),
    },
    "thetom-2026-05": {
        42: ("turbo2", "turbo2-b32"),
        43: ("turbo3@2026-03", "turbo3-b32"),
        44: ("turbo4@2026-03",),
    },
    "thetom": {201: ("turbo3",), 202: ("turbo4",), 203: ("turbo2",)},
    "buun": {
        42: ("turbo3-b32", "turbo3@2026-03", "turbo3"),
        43: ("turbo4", "turbo4@2026-03"),
        44: ("turbo2-b32", "turbo2"),
        45: ("turbo3_tcq",),
        46: ("turbo2_tcq",),
    },
}
FORKS["infernaldread"] = FORKS["buun"]


@dataclass(frozen=True)
class TypeRules:
    """How the caller wants type numbers to be read.

    Parameters
    ----------
    fork : str or None
        Whose numbers they are, a key of ``FORKS``; None knows upstream's types only.
    layouts : sequence of str
        Layouts that are meant where the row size leaves several.

    Raises
    ------
    UsageError
        A name is not in the tables.
    """

    fork: str | None = None
    layouts: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check the names."""
        if self.fork is not None and self.fork not in FORKS:
            raise UsageError(
                f"--fork {self.fork!r}: unknown fork; legal: {', '.join(sorted(FORKS))}"
            )
        for name in self.layouts:
            if name not in LAYOUTS:
                raise UsageError(f"--layout {name!r} is unknown; legal: {', '.join(LAYOUTS)}")

    def name(self, number: int) -> str:
        """Name of a type for people; its number where that means nothing."""
        if number in GGML_TYPES:
            return GGML_TYPES[number]
        layouts = FORKS[self.fork].get(number) if self.fork else None
        return family(layouts[0]) if layouts else f"type {number}"

    def number(self, layout: str) -> int:
        """The number under which a codec's bytes stand in a file.

        Raises
        ------
        UsageError
            No type is known for them; the message lists those that are.
        """
        types = {name: number for number, name in GGML_TYPES.items()}
        for number, names in FORKS[self.fork].items() if self.fork else ():
            types |= {name: number for name in names if name in LAYOUTS}
        if layout in types:
            return types[layout]
        todo = "" if self.fork else "; with --fork also its turbo types"
        raise UsageError(
            f"cache type {layout}: no save file of {self.fork or 'llama.cpp'} holds it; legal: "
            f"{', '.join(types)}{todo}"
        )

    def resolve(self, number: int, row_bytes: int, heads: int, head_dim: int, where: str) -> Codec:
        """Find the codec of rows of known size.

        Parameters
        ----------
        number, row_bytes : int
            What the file says.
        heads, head_dim : int
            What the model says.
        where : str
            File and tensor, for the message.

        Raises
        ------
        InputError
            The number means nothing here, rows of that type have another size, or several
            layouts have this size.
        """
        candidates = [codec(name) for name in self._candidates(number, where)]
        sizes = [row_size(each, heads, head_dim) for each in candidates]
        fitting = [c for c, size in zip(candidates, sizes, strict=True) if size == row_bytes]
        if not fitting:
            legal = ", ".join(
                f"{c.id} {size or 'cannot'}" for c, size in zip(candidates, sizes, strict=True)
            )
            raise input_error(
                where,
                f"rows of {row_bytes} bytes",
                f"bytes of {heads} heads of {head_dim} values: {legal}",
                "check the model, --heads, --head-dim and --fork",
            )
        if len(fitting) > 1:
            names = ", ".join(c.id for c in fitting)
            fitting = [c for c in fitting if c.id in self.layouts]
            if len(fitting) != 1:
                raise input_error(
                    where,
                    f"{row_bytes}-byte rows of {self.fork} may be {names}",
                    "the bytes do not tell them apart",
                    "name the one that was meant with --layout",
                )
        return fitting[0]

    def _candidates(self, number: int, where: str) -> Sequence[str]:
        if number in GGML_TYPES:
            return (GGML_TYPES[number],)
        upstream = ", ".join(f"{n} {name}" for n, name in GGML_TYPES.items())
        if self.fork is None:
            forks = [name for name, types in FORKS.items() if number in types]
            todo = f"name the fork that wrote it: --fork {'|'.join(forks)}" if forks else ""
            raise input_error(where, f"ggml type {number}", f"legal: {upstream}", todo)
        types = FORKS[self.fork]
        if number not in types:
            ours = ", ".join(f"{n} {family(names[0])}" for n, names in types.items())
            raise input_error(
                where,
                f"ggml type {number} means nothing in {self.fork}",
                f"legal: {upstream}, {ours}",
                "check --fork",
            )
        names = types[number]
        if names[0] not in LAYOUTS:
            raise input_error(
                where, f"type {number} is {self.fork}'s {names[0]}", "there is no codec for it"
            )
        wanted = [name for name in self.layouts if family(name) == family(names[0])]
        return tuple(dict.fromkeys((*names, *wanted)))


def family(layout: str) -> str:
    """Return the name that a layout goes by.

    Examples
    --------
    >>> family("turbo3-b32"), family("turbo4@2026-03")
    ('turbo3', 'turbo4')
    """
    return layout.partition("-")[0].partition("@")[0]


def row_size(kind: Codec, heads: int, head_dim: int) -> int:
    """Bytes of a row of `heads` vectors, or 0 where the format cannot hold such heads."""
    try:
        blocks, size = kind.blocks_shape(head_dim)
    except InputError:
        return 0
    return heads * blocks * size
