"""Which array is which: name patterns, and the layouts of engines by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tqcli.errors import InputError, UsageError
from tqcli.sources.arrays.axes import Axes

_SIDE_WORDS = {
    **dict.fromkeys(("k", "key", "keys", "0"), "k"),
    **dict.fromkeys(("v", "value", "values", "1"), "v"),
    **dict.fromkeys(("q", "query", "queries"), "q"),
}
_SIDE = "|".join(sorted(_SIDE_WORDS, key=len, reverse=True))
_FIELDS = {"{layer}": r"(?P<layer>\d{1,6})", "{side}": f"(?P<side>{_SIDE})", "*": ".*"}
_SPLIT = re.compile(r"(\{layer\}|\{side\}|\*)")


@dataclass(frozen=True)
class Pattern:
    """A name with ``{layer}``, ``{side}`` and ``*`` in it.

    Sides are recognised as k, key, keys, 0; v, value, values, 1; q, query, queries.

    Examples
    --------
    >>> Pattern("model.layers.{layer}.{side}").match("model.layers.7.value")
    (7, 'v')
    """

    text: str

    def __post_init__(self) -> None:
        """Refuse braces that mean nothing."""
        parts = _SPLIT.split(self.text)
        if any("{" in part or "}" in part for part in parts if part not in _FIELDS):
            raise UsageError(f"--pattern {self.text}: legal in braces are {{layer}} and {{side}}")
        if any(self.text.count(name) > 1 for name in ("{layer}", "{side}")):
            raise UsageError(f"--pattern {self.text}: {{layer}} and {{side}} stand at most once")

    def match(self, name: str) -> tuple[int | None, str | None] | None:
        """Layer and side of a name, each None where the pattern does not tell; None: no match."""
        parts = (_FIELDS.get(part, re.escape(part)) for part in _SPLIT.split(self.text))
        found = re.fullmatch("".join(parts), name)
        if found is None:
            return None
        groups = found.groupdict()
        layer, side = groups.get("layer"), groups.get("side")
        return None if layer is None else int(layer), None if side is None else _SIDE_WORDS[side]


@dataclass(frozen=True)
class Preset:
    """How an engine writes its cache.

    Parameters
    ----------
    pattern : str
    axes : mapping of int to str
        Axis order by the number of axes.
    what : str
        For the help text.
    """

    pattern: str
    axes: Mapping[int, str]
    what: str


PRESETS: Mapping[str, Preset] = {
    # mlx_lm.models.cache.save_prompt_cache: tree_flatten of [cache.state, ...]
    "mlx": Preset("{layer}.{side}", {4: "batch,head,seq,dim"}, "mlx-lm prompt cache"),
    # vLLM's example (shared storage) connector: one file a layer; flash layouts give 3 axes,
    # layouts with K and V inside each block give 4
    "vllm": Preset(
        "*layers.{layer}.*.safetensors:kv_cache",
        {3: "side,seq,hidden", 4: "seq,side,head,dim"},
        "folder of per-layer files of vLLM's storage connector",
    ),
    # LMCache's KV_2LTD memory format
    "lmcache": Preset("*", {4: "side,layer,seq,hidden"}, "LMCache chunk [2, L, T, hidden]"),
}


def preset_axes(name: str, where: str, rank: int, heads: int | None) -> Axes:
    """Axis order of one array of a preset.

    Raises
    ------
    InputError
        The preset has no layout with that many axes.
    """
    orders = PRESETS[name].axes
    if rank not in orders:
        legal = " or ".join(f"{n} ({order})" for n, order in orders.items())
        raise InputError(
            f"{where}: {rank} axes; preset {name} has {legal}; give --pattern and --axes instead"
        )
    return Axes.parse(orders[rank], heads)
