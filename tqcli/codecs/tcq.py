"""buun's trellis-coded types: 512 or 256 states, a start state in the block, a table in a file.

Several tables are in circulation under one type number, so none is the default: a codec needs the
file that the engine was given. NumPy does all of it; these types are here to compare with, and to
read caches of that fork.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tqcli import rotation
from tqcli.codebook import TrellisTable
from tqcli.codecs.base import Blocks, Codec, Floats, VectorError, require_finite
from tqcli.errors import InputError, UsageError
from tqcli.kernels import trellis_reference as trellis
from tqcli.kernels.reference import TINY

_GROUP = 128
_HEADER = 2
_PREFIX = 6  # bits of the state before the first value
_CHUNK = 64  # groups at a time: a search holds costs of all windows of each


@dataclass(frozen=True)
class Spec:
    """Bits of a symbol and of a window; bytes of a block, a byte of padding at its end."""

    bits: int
    window: int
    block_bytes: int


SPECS: dict[str, Spec] = {
    # fp16 norm, 6 + 128 * bits bits as one LSB-first stream, padding
    "turbo3_tcq": Spec(3, 9, 52),
    "turbo2_tcq": Spec(2, 8, 36),
}


class TcqCodec(Codec):
    """``value = table[window] * norm``, the window of value t the bits from ``bits * t`` on.

    Parameters
    ----------
    name : str
    table : TrellisTable, optional
        Values of a unit vector of 128. Without one the codec knows its sizes and nothing else.

    Raises
    ------
    InputError
        If the table is for other bits or windows.
    """

    values_per_block = _GROUP

    def __init__(self, name: str, table: TrellisTable | None = None) -> None:
        spec = SPECS[name]
        if table is not None and (table.bits, table.window) != (spec.bits, spec.window):
            raise InputError(
                f"{name}: table {table.id} has {table.bits} bits and windows of {table.window}; "
                f"{name} takes {spec.bits} and {spec.window}"
            )
        self.id, self.spec, self.table = name, spec, table
        self.block_bytes = spec.block_bytes

    def require_table(self) -> TrellisTable:
        """The table; a UsageError where there is none."""
        if self.table is None:
            raise UsageError(
                f"{self.id}: needs --codebook FILE, the table of {2**self.spec.window} float32 "
                "that the engine used; several are in circulation"
            )
        return self.table

    def config(self) -> dict[str, Any]:
        """The id and the table."""
        table = self.require_table()
        return {"id": self.id, "codebook": {"id": table.id} | table.table()}

    def _encode(self, flat: Floats) -> Blocks:
        require_finite(flat)
        groups = np.ascontiguousarray(flat.reshape(-1, _GROUP), np.float32)
        parts = [
            self._encode_groups(groups[at : at + _CHUNK]) for at in range(0, len(groups), _CHUNK)
        ]
        blocks = np.concatenate(parts)
        norms = self._norms(blocks)
        if not np.isfinite(norms).all():
            group = int(np.argmin(np.isfinite(norms)))
            what = "norm does not fit the fp16 of the block; 65504 is the largest"
            raise VectorError(group * _GROUP // flat.shape[1], None, what)
        return blocks.reshape(len(flat), -1)

    def _encode_groups(self, groups: NDArray[np.float32]) -> Blocks:
        bits, values = self.spec.bits, self.require_table().array()
        with np.errstate(all="ignore"):
            length = np.sqrt(np.square(groups.T.astype(np.float64)).sum(axis=0))
            inverse = np.where(length > TINY, 1 / length, 0).astype(np.float32)
            y = rotation.rotate_columns(np.ascontiguousarray(groups.T) * inverse)
            found = trellis.search(y, bits, values, any_start=True)
            decoded = np.sqrt(np.square(values[found].astype(np.float64)).sum(axis=0))
            norm = np.where(decoded > TINY, length / decoded, length).astype("<f2")
        symbols = found.T >> (self.spec.window - bits)
        start = found[0] & ((1 << _PREFIX) - 1)
        stream = np.concatenate([_bits(start[:, None], _PREFIX), _bits(symbols, bits)], axis=1)
        out = np.zeros((len(groups), self.block_bytes), np.uint8)
        out[:, :_HEADER] = norm.view(np.uint8).reshape(-1, _HEADER)
        packed = np.packbits(stream, axis=1, bitorder="little")
        out[:, _HEADER : _HEADER + packed.shape[1]] = packed
        return out

    def _decode(self, flat: Blocks, rotated: bool, dtype: np.dtype[Any]) -> Floats:
        blocks = flat.reshape(-1, self.block_bytes)
        norms = self._norms(blocks)
        bad = ~np.isfinite(norms) | (norms < 0)
        if bad.any():
            vector = int(np.argmax(bad)) * len(flat) // len(blocks)
            raise VectorError(vector, None, f"stored norm is not a length; no {self.id} block")
        values = (
            self.require_table().array()[self._windows(blocks)] * norms.astype(np.float32)[:, None]
        )
        if not rotated:
            values = rotation.unrotate(values)
        return values.reshape(len(flat), -1).astype(dtype)

    def _windows(self, blocks: Blocks) -> NDArray[np.uint16]:
        stream = np.unpackbits(blocks[:, _HEADER:], axis=1, bitorder="little")
        used = _PREFIX + _GROUP * self.spec.bits
        return trellis.read_windows(stream[:, :used], self.spec.bits, self.spec.window)

    def _norms(self, blocks: Blocks) -> NDArray[np.float16]:
        norms: NDArray[np.float16] = np.ascontiguousarray(blocks[:, :_HEADER]).view("<f2")[:, 0]
        return norms

    def _lengths(self, flat: Blocks) -> NDArray[np.float16]:
        return self._norms(flat.reshape(-1, self.block_bytes)).reshape(len(flat), -1)


def _bits(numbers: NDArray[Any], count: int) -> NDArray[np.uint8]:
    """Numbers ``(n, m)`` as single bits ``(n, m * count)``, the lowest first."""
    planes = numbers[:, :, None] >> np.arange(count) & 1
    return planes.reshape(len(numbers), -1).astype(np.uint8)
