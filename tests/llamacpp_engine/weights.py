"""SmolLM2's GGUF with its weights as float16.

Behind weights of four bits llama.cpp rounds activations to eight, so that two runs which differ in
their last bits drift apart by two per cent. Where caches are compared as numbers, that is too much.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

from tqcli.kv.atomic import replacing

SKIPPED = ("general.architecture", "general.file_type", "general.quantization_version")


def write_float16(source: Path, target: Path) -> Path:
    """Copy a model, its matrices decoded to float16 and the rest to float32; once."""
    if target.is_file():
        return target
    reader = GGUFReader(source)
    with replacing(target) as file:
        writer = GGUFWriter(file.name, reader.fields["general.architecture"].contents())
        for name, field in reader.fields.items():
            if name.startswith("GGUF.") or name in SKIPPED:
                continue
            kind = field.types[0]
            inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=inner)
        for tensor in reader.tensors:
            values = gguf.quants.dequantize(tensor.data, GGMLQuantizationType(tensor.tensor_type))
            matrix = len(tensor.shape) > 1
            writer.add_tensor(tensor.name, values.astype(np.float16 if matrix else np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return target
