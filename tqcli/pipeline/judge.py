"""A dump against a candidate, with the verdict: every measure, the layers at fault, a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tqcli.errors import UsageError
from tqcli.kv.dump import Dump
from tqcli.metrics.attention import SINKS
from tqcli.pipeline.attention import AttentionOptions, evaluate_attention, require_queries
from tqcli.pipeline.attention_result import AttentionEvaluation
from tqcli.pipeline.evaluate import Candidate, Evaluation, evaluate
from tqcli.pipeline.pieces import Nonfinite, Progress, no_progress
from tqcli.pipeline.remedy import find_remedy
from tqcli.report.verdict import conclude, cured, faults, judge, judge_all, name_layers
from tqcli.words import counted


@dataclass(frozen=True, eq=False)
class Judged:
    """What :func:`evaluate_and_judge` found.

    Attributes
    ----------
    rows : list of dict
        Of :meth:`Evaluation.rows`, with the attention columns, ``verdict`` and ``verdict_by``.
    notes : list of str
        How attention was measured and what could not be judged; the last one is the verdict.
    """

    evaluation: Evaluation
    attention: AttentionEvaluation
    rows: list[dict[str, Any]]
    notes: list[str]

    def __repr__(self) -> str:
        """``<judged, 10 rows; verdict: fine; ...>``."""
        return f"<judged, {counted(len(self.rows), 'row')}; {self.notes[-1]}>"


def parse_queries(text: str, sinks: int = SINKS) -> AttentionOptions | None:
    """Options of ``--queries``: None stands for ``none``.

    Examples
    --------
    >>> parse_queries("all")
    AttentionOptions(positions=0, sinks=4)
    """
    named = {"auto": None, "all": 0}
    if text == "none":
        return None
    if text not in named and not (text.isdecimal() and int(text)):
        raise UsageError(f"--queries {text!r}; auto, all, none or a number from 1 on is legal")
    return AttentionOptions(named[text] if text in named else int(text), sinks)


def evaluate_and_judge(
    dump: Dump,
    candidate: Candidate,
    options: AttentionOptions | None = None,
    *,
    per_head: bool = False,
    nonfinite: Nonfinite = "error",
    progress: Progress = no_progress,
) -> Judged:
    """Measure vectors and attention, judge every layer and side, and look for a remedy.

    Parameters
    ----------
    dump : Dump
    candidate : Candidate
    options : AttentionOptions or None
        None leaves attention out. A number of positions demands a dump with queries.
    per_head : bool
        Rows for heads too; they carry no attention figures.
    nonfinite : {"error", "zero", "skip"}
    progress : callable
        Called with the bytes of K and V read since the last call; both are read twice where there
        are queries.
    """
    if options is not None and options.positions is not None:
        require_queries(dump)
    evaluation = evaluate(
        dump, candidate, per_head=per_head, nonfinite=nonfinite, progress=progress
    )
    attention = AttentionEvaluation()
    if options is not None:
        attention = evaluate_attention(
            dump, candidate, options, nonfinite=nonfinite, progress=progress
        )
    rows = evaluation.rows()
    attention.extend(rows)
    judge_all(rows)
    remedies = {side: _remedy(dump, rows, side, nonfinite) for side in "kv" if faults(rows, side)}
    notes = [*_basis(attention, options), *attention.notes, conclude(rows, remedies)]
    return Judged(evaluation, attention, rows, notes)


def _remedy(dump: Dump, rows: list[dict[str, Any]], side: str, rule: Nonfinite) -> str | None:
    """The cheapest type that makes every layer at fault fine, in words."""
    layers = faults(rows, side)
    own = [row for row in rows if row["side"] == side and row["layer"] in layers]
    bits = [row["bits_per_value"] for row in own if row["head"] is None]
    above = None if None in bits else max(bits)

    found = find_remedy(dump, side, layers, cured, above=above, nonfinite=rule)
    if found is None:
        return None
    by = judge(found.rows[0])  # of the layer that was the worst
    total = sum(row.get("output_error") or 0.0 for row in found.rows)
    left = f"output errors {total:.2g} in sum" if total else "" if by is None else by.by
    return f"{side.upper()} of {name_layers(found.layers)} at {found.type} ({left})"


def _basis(attention: AttentionEvaluation, options: AttentionOptions | None) -> list[str]:
    """How the attention figures came about, and what has none."""
    notes = []
    sampled = [one for one in attention.layers.values() if not one.exact]
    if sampled:
        low, high = (f(one.measured for one in sampled) for f in (min, max))
        count = f"{low}" if low == high else f"{low} to {high}"
        notes.append(
            f"attention: a random sample of {count} query positions a layer, of "
            f"{max(one.positions for one in sampled)}, all heads of each; intervals are 95 % "
            "bootstrap over positions (output_error_low, _high in the JSON)"
        )
    if options is None:
        notes.append("attention was not measured (--queries none): " + _WITHOUT)
    elif not attention.layers:
        reasons = sorted(set(attention.missing.values()))
        notes.append(f"attention could not be measured ({', '.join(reasons)}): " + _WITHOUT)
    elif attention.missing:
        by_reason: dict[str, list[int]] = {}
        for layer, reason in attention.missing.items():
            by_reason.setdefault(reason, []).append(layer)
        for reason, layers in by_reason.items():
            notes.append(f"attention of {name_layers(layers)} could not be measured ({reason})")
    return notes


_WITHOUT = (
    "weights, outputs and what sinks do to them are unknown; the verdict rests on the centred "
    "error of K and the plain error of V, which tell less (dump with --queries for more)"
)
