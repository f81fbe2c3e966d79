"""Whose caches two files hold: model and RoPE, as far as either says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tqcli.errors import InputError
from tqcli.rope import Rope

# RoPE of these kinds changes its frequencies with the length of the text; the same model then has
# several, and only its record can be compared.
BY_LENGTH = ("dynamic", "longrope")
_TOLERANCE = 1e-6  # of frequencies that two programs computed in float32
_STRONG = ("architecture", "config_sha256", "tokenizer_sha256")


@dataclass(frozen=True)
class Identity:
    """What a file says of the model that its keys came from.

    Parameters
    ----------
    family : str
        The kind of source, ``transformers`` or ``llama.cpp``: hashes of one mean nothing to the
        other.
    architecture, config_sha256, tokenizer_sha256 : str, optional
        None where the source does not say.
    models : tuple of str
        Names it goes by; not compared, since one model has many.
    """

    family: str
    architecture: str | None = None
    config_sha256: str | None = None
    tokenizer_sha256: str | None = None
    models: tuple[str, ...] = ()

    @classmethod
    def of_source(cls, source: Mapping[str, Any]) -> Identity:
        """From a dump's provenance."""
        known = {key: value for key in _STRONG if isinstance(value := source.get(key), str)}
        name = source.get("model")
        kind = source.get("kind")
        return cls(
            kind.split()[0] if isinstance(kind, str) and kind.split() else "",
            models=(name,) if isinstance(name, str) else (),
            **known,
        )

    @classmethod
    def from_json(cls, data: Any, where: str) -> Identity:
        """Inverse of :meth:`to_json`; `where` names the file in errors."""
        names = data.get("models") if isinstance(data, Mapping) else None
        if not isinstance(names, list):
            raise InputError(f"{where}: metadata lacks the model")
        texts = [data.get("family", ""), *names, *(data.get(key) or "" for key in _STRONG)]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"{where}: the model's metadata holds what is no text")
        known = {key: data.get(key) for key in _STRONG}
        return cls(data.get("family", ""), models=tuple(names), **known)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "models": list(self.models)}

    def __str__(self) -> str:
        """The names."""
        return ", ".join(self.models) or self.architecture or "a model without a name"

    def require_same(self, other: Identity, where: str) -> None:
        """Refuse another model; what either does not say is no difference.

        Raises
        ------
        InputError
            The message begins with `where`.
        """
        if self.family != other.family:
            return
        for key in _STRONG:
            mine, theirs = getattr(self, key), getattr(other, key)
            if mine is not None and theirs is not None and mine != theirs:
                what = key.replace("_sha256", "")
                raise InputError(
                    f"{where}: of another model: {what} {_short(mine)} of {self} is not "
                    f"{_short(theirs)} of {other}; calibrate that model"
                )

    def join(self, other: Identity, where: str) -> Identity:
        """What both say together; another model is refused, and so is another family."""
        if self.family != other.family:
            raise InputError(
                f"{where}: from {other.family or 'unnamed'}, the others from "
                f"{self.family or 'unnamed'}; their hashes cannot be compared, keep them apart"
            )
        self.require_same(other, where)
        known = {key: getattr(self, key) or getattr(other, key) for key in _STRONG}
        return Identity(self.family, models=tuple(sorted({*self.models, *other.models})), **known)


def require_same_rope(mine: Rope, theirs: Rope, where: str) -> None:
    """Refuse a calibration of another RoPE.

    Raises
    ------
    InputError
        The message begins with `where`.
    """
    if not same_rope(mine, theirs):
        raise InputError(
            f"{where}: of another RoPE: {describe(mine)}, here it is {describe(theirs)}; "
            "calibrate this model"
        )


def same_rope(a: Rope, b: Rope) -> bool:
    """Whether two records are of one RoPE, at whatever length of text."""
    if (a.pairs, a.rotary_dims) != (b.pairs, b.rotary_dims):
        return False
    if a.kind == b.kind and a.kind in BY_LENGTH and a.theta is not None:
        return (a.theta, dict(a.scaling)) == (b.theta, dict(b.scaling))
    close = np.allclose([*a.inv_freq, a.magnitude], [*b.inv_freq, b.magnitude], _TOLERANCE, 0)
    return bool(close)


def describe(rope: Rope) -> str:
    """``default, theta 10000, 64 dims in halves``."""
    theta = "" if rope.theta is None else f", theta {rope.theta:g}"
    order = "interleaved" if rope.pairs == "interleaved" else "in halves"
    return f"{rope.kind}{theta}, {rope.rotary_dims} dims {order}"


def _short(text: str) -> str:
    return f"{text[:12]}..." if len(text) > 20 else text
