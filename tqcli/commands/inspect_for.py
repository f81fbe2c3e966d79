"""``tq inspect SLOT --for PROBE``: will the server that saved PROBE take SLOT?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from tqcli.commands import common
from tqcli.errors import GateError, UsageError


def inspect_for(
    slot: Path,
    probe: Path,
    shown: common.Output,
    *,
    model: Path | None,
    ctx_size: int | None,
    fork: str | None,
) -> None:
    """Report every check of the loader; exit code 1 if one refuses."""
    from tqcli.report.result import Report
    from tqcli.report.views import ACCEPTED
    from tqcli.sources.llamacpp.accept import UNCHECKED, UNCHECKED_ROTATION, checks
    from tqcli.sources.llamacpp.gguf_header import read_header
    from tqcli.sources.llamacpp.parse import read_layout
    from tqcli.sources.llamacpp.types import TypeRules

    if ctx_size is not None and ctx_size < 1:
        raise UsageError(f"--ctx-size {ctx_size}: give a positive number")
    TypeRules(fork)
    vocab = None if model is None else read_header(model).vocab
    save, wanted = read_layout(slot), read_layout(probe)
    found = list(checks(save, wanted, n_ctx=ctx_size, n_vocab=vocab, fork=fork))
    notes = [UNCHECKED]
    if save.rotation is None:
        notes.append(UNCHECKED_ROTATION.format(version=save.version))
    if ctx_size is None:
        notes.append("not known here: the server's context (give -c)")
    if vocab is None:
        notes.append("not known here: the vocabulary (give --model)")
    refusals = [check.refusal for check in found if check.refusal]
    report = Report(
        "tq.inspect/1",
        f"{slot} for the server of {probe}: {'refused' if refusals else 'accepted'}",
        ACCEPTED,
        [asdict(check) for check in found],
        notes=notes,
        inputs=[{"path": str(slot)}, {"path": str(probe)}],
        command=common.command_line(),
        extra={"accepted": not refusals},
    )
    shown.emit(report)
    if refusals:
        raise GateError(f"{slot}: the server of {probe} refuses it: {refusals[0]}")
