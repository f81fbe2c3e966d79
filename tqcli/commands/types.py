"""``tq types``: the cache types that tq knows."""

from __future__ import annotations

from tqcli.commands import common


def types(
    format: common.Format = "table",
    json: common.Json = False,
) -> None:
    """List the cache types: blocks, bytes, bits a value at common head sizes.

    Example: tq types --format md
    """
    from tqcli.codecs import codec_ids, describe
    from tqcli.errors import InputError
    from tqcli.report.result import Column, Report

    dims = (64, 80, 128, 256)
    rows = []
    for name in codec_ids():
        made = describe(name)
        row: dict[str, object] = {
            "type": name,
            "values_per_block": made.values_per_block,
            "block_bytes": made.block_bytes,
        }
        for dim in dims:
            try:
                row[f"bits_{dim}"] = made.bits_per_value(dim)
            except InputError:
                row[f"bits_{dim}"] = None
        rows.append(row)
    report = Report(
        "tq.types/1",
        "cache types",
        (
            Column("type", "type"),
            Column("values_per_block", "values/block", "d"),
            Column("block_bytes", "bytes/block", "d"),
            *(Column(f"bits_{dim}", f"bits at {dim}", ".4g") for dim in dims),
        ),
        rows,
        notes=[
            "q8_0 q4_0 q4_1 q5_0 q5_1 iq4_nl also with +rot, llama.cpp's Hadamard in front",
            "turbo3_tcq turbo2_tcq need a table: --codebook FILE",
        ],
        command=common.command_line(),
    )
    common.emit(report, format, json=json)
