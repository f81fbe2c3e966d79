"""Upstream's own bytes: every kernel, NumPy included, writes them and reads them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tqcli import kernels
from tqcli.codecs.turbo import TurboCodec

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden" / "turbo_reference.safetensors"
IDS = ("turbo2", "turbo2-b32", "turbo3", "turbo3-b32", "turbo3@2026-03", "turbo4", "turbo4@2026-03")


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """Inputs, blocks and rotated values that the upstream C reference wrote."""
    return load_file(GOLDEN)


@pytest.mark.parametrize("name", IDS)
def test_encodes_upstream_bytes(kernel: str, golden: dict[str, Any], name: str) -> None:
    """A cache written by tq must be one that engines can read."""
    layout = TurboCodec(name).layout
    blocks = kernels.encode(golden["x"], layout)
    assert np.array_equal(blocks.reshape(-1, layout.block_bytes), golden[f"{name}.blocks"])


@pytest.mark.parametrize("name", IDS)
def test_decodes_upstream_floats(kernel: str, golden: dict[str, Any], name: str) -> None:
    """A cache written by an engine must mean the same floats here."""
    layout = TurboCodec(name).layout
    blocks = golden[f"{name}.blocks"].reshape(-1, layout.group_bytes)
    values = kernels.decode(blocks, layout, rotated=True)
    assert np.array_equal(values, golden[f"{name}.rotated"])
