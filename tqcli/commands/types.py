"""``tq types``: the cache types that tq knows."""

from __future__ import annotations

from tqcli.commands import common


def types(
    format: common.Format = "table",
    json: common.Json = False,
    wide: common.Wide = False,
    columns: common.Columns = None,
) -> None:
    """List the cache types: blocks, bytes, bits a value at common head sizes.

    Example: tq types --format md
    """
    from tqcli.codebook import find_codebook, shipped
    from tqcli.codecs import codebook_bits, codec_ids, describe
    from tqcli.codecs.ggml import BLOCK_BYTES
    from tqcli.errors import InputError
    from tqcli.report.result import Report
    from tqcli.report.views import TYPES

    shown = common.output_of("types", format, json, wide=wide, columns=columns)
    books = [name for name in shipped() if find_codebook(name).bits in codebook_bits()]
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
        "cache types: values and bytes of a block, bits per value at head_dim 64, 80, 128, 256",
        TYPES,
        rows,
        notes=[
            f"{', '.join(BLOCK_BYTES)} also with +rot: llama.cpp's Hadamard rotation comes first",
            f"codebooks that come with tq (--codebook): {', '.join(books)}",
            "turbo3_tcq, turbo2_tcq need a table: --codebook FILE",
        ],
        command=common.command_line(),
    )
    shown.emit(report)
