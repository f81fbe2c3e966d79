"""Calibrations out of dumps, models and other calibrations, merged exactly."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tqcli.errors import InputError
from tqcli.kv.container import ContainerWriter, Spec, schema_of
from tqcli.kv.dump import Dump, open_dump
from tqcli.pipeline.evidence import BiasEvidence, DumpEvidence
from tqcli.pipeline.pieces import Progress, no_progress
from tqcli.plan.calibration import (
    BY_TEXT,
    GRAM,
    K_POWER,
    K_SUM,
    MERGES,
    Q_POWER,
    Calibration,
    Evidence,
    Tensors,
    Text,
    calibration_record,
    open_calibration,
)
from tqcli.plan.identity import require_same_rope
from tqcli.rope import Rope
from tqcli.version import __version__


def open_input(path: str | os.PathLike[str]) -> Dump | Calibration:
    """Open a dump or a calibration, whichever it is."""
    if str(schema_of(path)).startswith("tq.calibration/"):
        return open_calibration(path)
    return open_dump(path)


def evidence_of(opened: Dump | Calibration, progress: Progress = no_progress) -> Evidence:
    """What an open input tells; `progress` is called with bytes read."""
    return DumpEvidence(opened, progress) if isinstance(opened, Dump) else opened


def bias_evidence(
    model: str, revision: str | None = None, note: Callable[[str], None] | None = None
) -> Evidence:
    """The bias of the key projection of a transformers model.

    Raises
    ------
    InputError
        There is no such model, or its keys have no bias.
    """
    from tqcli.sources.hf.bias import key_bias

    found = key_bias(model, revision=revision, note=note)
    return BiasEvidence(found.provenance, found.ropes, found.biases)


def calibrate(
    evidence: Sequence[Evidence], path: str | os.PathLike[str], *, force: bool = False
) -> list[dict[str, Any]]:
    """Write what several sources tell of one model into a calibration.

    The order of the sources does not matter: the bytes are the same.

    Parameters
    ----------
    evidence : sequence of Evidence
        At least one; read one layer at a time.
    path : str or path
        ``*.safetensors``.
    force : bool
        Replace an existing file.

    Returns
    -------
    list of dict
        One row a layer: tokens, what is left of K's power on held-out tokens, and what is known.

    Raises
    ------
    InputError
        The sources are of different models, layers or RoPE, or say different things of one text.
    """
    first, *rest = evidence
    identity = first.identity
    for one in rest:
        identity = identity.join(one.identity, one.where)
        if one.layers != first.layers:
            raise InputError(
                f"{one.where}: {len(one.layers)} layers, {first.where} has {len(first.layers)} or "
                "others; all must speak of the same"
            )
    ropes = {layer: _rope(evidence, layer) for layer in first.layers}
    texts = _texts(evidence)
    specs: list[Spec] = []
    for layer in first.layers:
        specs += _specs(evidence, layer, texts)
    record = calibration_record(identity, ropes, texts, __version__)
    with ContainerWriter(path, specs, record, force=force) as writer:
        at = 0
        for layer in first.layers:
            merged = _merge([(one, one.tensors(layer)) for one in evidence], layer, texts)
            for _ in merged:
                name = specs[at][0]
                writer.write(name, [merged[name.split(".", 2)[2]]])
                at += 1
    with open_calibration(path) as made:
        return [_row(made, layer) for layer in made.layers]


def _rope(evidence: Sequence[Evidence], layer: int) -> Rope:
    """RoPE of a layer: where its frequencies depend on the length of the text, the highest."""
    ropes = [one.rope(layer) for one in evidence]
    for one, rope in zip(evidence, ropes, strict=True):
        require_same_rope(rope, ropes[0], f"{one.where}: layer {layer}")
    return max(ropes, key=lambda rope: (rope.inv_freq, rope.kind, str(rope.to_json())))


def _texts(evidence: Sequence[Evidence]) -> list[Text]:
    """Every text once, in the order of hashes."""
    found: dict[str, Text] = {}
    for one in evidence:
        for text in one.texts:
            known = found.setdefault(text.sha256, text)
            if (known.tokens, known.counted) != (text.tokens, text.counted):
                raise _differs(one, text, "length")
            if text.queries:
                found[text.sha256] = replace(known, queries=True)
    return sorted(found.values())


def _specs(evidence: Sequence[Evidence], layer: int, texts: list[Text]) -> list[Spec]:
    """Names, dtypes and shapes of the merged tensors of a layer."""
    shapes: dict[str, tuple[int, ...]] = {}
    for one in evidence:
        for name, shape in one.shapes(layer).items():
            known = shapes.setdefault(name, shape)
            skip = 1 if MERGES[name] == BY_TEXT else 0
            if known[skip:] != shape[skip:]:
                raise InputError(
                    f"{one.where}: layers.{layer}.{name}: shape {shape}, {evidence[0].where} has "
                    f"{known}; they are not of one model"
                )
    rows = {K_SUM: len(texts), K_POWER: len(texts), Q_POWER: sum(text.queries for text in texts)}
    return [
        (
            f"layers.{layer}.{name}",
            np.dtype(np.float32 if name == GRAM else np.float64),
            (rows[name], *shapes[name][1:]) if name in rows else shapes[name],
        )
        for name in sorted(shapes)
    ]


def _merge(parts: list[tuple[Evidence, Tensors]], layer: int, texts: list[Text]) -> Tensors:
    """The tensors of a layer from all sources, by name in order."""
    names = sorted({name for _, tensors in parts for name in tensors})
    return {name: _merge_one(parts, layer, name, texts) for name in names}


def _merge_one(
    parts: list[tuple[Evidence, Tensors]], layer: int, name: str, texts: list[Text]
) -> Any:
    mine = [(one, tensors[name]) for one, tensors in parts if name in tensors]
    if MERGES[name] != BY_TEXT:
        for one, values in mine:
            if not np.array_equal(values, mine[0][1]):
                raise InputError(
                    f"{one.where}: layers.{layer}.{name}: not as in {mine[0][0].where}; they are "
                    "not of one model"
                )
        return mine[0][1]
    rows: dict[str, Any] = {}
    for one, values in mine:
        used = [text for text in one.texts if text.queries or name != Q_POWER]
        for text, row in zip(used, values, strict=True):
            if not np.array_equal(rows.setdefault(text.sha256, row), row):
                raise _differs(one, text, f"sums in layer {layer}")
    return np.stack([rows[text.sha256] for text in texts if text.sha256 in rows])


def _differs(one: Evidence, text: Text, what: str) -> InputError:
    return InputError(
        f"{one.where}: text {text.sha256[:16]}...: another {what} than in the files before; one "
        "of them was dumped with another --dtype or --compute-dtype, keep one"
    )


def _row(made: Calibration, layer: int) -> dict[str, Any]:
    """What the report says of a layer."""
    mean = made.mean(layer)
    shapes = made.shapes(layer)
    return {
        "layer": layer,
        "num_kv_heads": mean.shape[0],
        "head_dim": mean.shape[1],
        "rope": made.rope(layer).kind,
        "texts": len(made.texts),
        "tokens": int(made.counts.sum()),
        "residual": made.residual(layer),
        "mean_norm": float(np.sqrt((mean * mean).sum(axis=1).mean())),
        "query_texts": made.with_queries if Q_POWER in shapes else 0,
        "output_gram": int(GRAM in shapes),
    }
