"""Types of the extension module; the functions are described in native/module.c."""

from typing_extensions import Buffer

class _Layout: ...
class _Trellis: ...

def kernels() -> tuple[str, ...]: ...
def layout(
    bits: int, group: int, block: int, header: int, corrected: bool, floats: Buffer, /
) -> _Layout: ...
def encode(kernel: int, layout: _Layout, x: Buffer, kind: int, blocks: Buffer, /) -> None: ...
def decode(
    kernel: int, layout: _Layout, blocks: Buffer, kind: int, out: Buffer, rotated: bool, /
) -> None: ...
def trellis_layout(bits: int, group: int, table: Buffer, floats: Buffer, /) -> _Trellis: ...
def trellis_encode(
    kernel: int, layout: _Trellis, weighting: Buffer, x: Buffer, kind: int, blocks: Buffer, /
) -> None: ...
def trellis_decode(
    kernel: int, layout: _Trellis, blocks: Buffer, kind: int, out: Buffer, rotated: bool, /
) -> None: ...
def trellis_scores(
    kernel: int,
    layout: _Trellis,
    m: int,
    queries: Buffer,
    scales: Buffer,
    keys: Buffer,
    out: Buffer,
    first: int,
    /,
) -> None: ...
def weighted_encode(
    kernel: int, layout: _Layout, weighting: Buffer, x: Buffer, kind: int, blocks: Buffer, /
) -> None: ...
def pack(kernel: int, bits: int, block: int, codes: Buffer, packed: Buffer, /) -> int: ...
def unpack(
    kernel: int, bits: int, block: int, header: int, packed: Buffer, codes: Buffer, /
) -> None: ...
def scores(
    kernel: int,
    layout: _Layout,
    m: int,
    queries: Buffer,
    blocks: Buffer,
    out: Buffer,
    first: int,
    /,
) -> None: ...
def scores_int8(
    kernel: int,
    layout: _Layout,
    m: int,
    queries: Buffer,
    scales: Buffer,
    centroids: Buffer,
    blocks: Buffer,
    out: Buffer,
    first: int,
    /,
) -> None: ...
def weighted_sum(
    kernel: int,
    layout: _Layout,
    m: int,
    dim: int,
    slab: int,
    weights: Buffer,
    first: int,
    blocks: Buffer,
    out: Buffer,
    /,
) -> None: ...
def scores_f16(
    kernel: int, m: int, queries: Buffer, keys: Buffer, out: Buffer, first: int, /
) -> None: ...
def weighted_sum_f16(
    kernel: int,
    m: int,
    dim: int,
    slab: int,
    weights: Buffer,
    first: int,
    values: Buffer,
    out: Buffer,
    /,
) -> None: ...
def rans_encode(
    frequencies: Buffer, tables: Buffer, width: int, symbols: Buffer, out: Buffer, /
) -> int: ...
def rans_decode(
    kernel: int,
    lookups: Buffer,
    tables: Buffer,
    width: int,
    stream: Buffer,
    symbols: Buffer,
    /,
) -> str | None: ...
def multiply(
    kernel: int,
    rows: int,
    depth: int,
    columns: int,
    a: Buffer,
    x: Buffer,
    out: Buffer,
    shifts: Buffer | None,
    add: bool,
    /,
) -> None: ...
def errors(
    kernel: int,
    x: Buffer,
    kind: int,
    decoded: Buffer,
    dim: int,
    rows: Buffer,
    channels: Buffer,
    /,
) -> None: ...
def moments(
    kernel: int, x: Buffer, kind: int, dim: int, signs: Buffer, totals: Buffer, /
) -> None: ...
def summarize(rows: Buffer, totals: Buffer, keys: Buffer, /) -> None: ...
