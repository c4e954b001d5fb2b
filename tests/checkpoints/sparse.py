"""Writes checkpoints of any size whose weights are all zero, as files that take no space on the disk."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

from tests.checkpoints.tiny import llama_config, llama_shapes, tokenizer_files

__all__ = ("write_sparse_checkpoint",)


def write_sparse_checkpoint(folder: Path, *, width: int, layers: int, rows: int, files: int) -> int:
    """A llama in BF16. Returns how many bytes its tensors have."""
    folder.mkdir()
    others = {"config.json": llama_config(width, layers, rows), **tokenizer_files()}
    shapes = llama_shapes(width, layers, rows)
    homes = {}
    total = 0
    for number in range(files):
        name = f"model-{number + 1:05}-of-{files:05}.safetensors"
        header: dict[str, Any] = {}
        end = 0
        for tensor in list(shapes)[number::files]:
            size_bytes = 2 * math.prod(shapes[tensor])
            header[tensor] = {
                "dtype": "BF16",
                "shape": shapes[tensor],
                "data_offsets": [end, end + size_bytes],
            }
            homes[tensor] = name
            end += size_bytes
        text = json.dumps(header).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text)
        os.truncate(folder / name, 8 + len(text) + end)
        total += end
    for name, content in {**others, "model.safetensors.index.json": {"weight_map": homes}}.items():
        (folder / name).write_text(json.dumps(content))
    return total
