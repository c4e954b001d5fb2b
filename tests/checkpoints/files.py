"""Writes a checkpoint in Hugging Face's layout: settings as JSON, weights as safetensors, in one file or several."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ("read_safetensors", "write_checkpoint", "write_safetensors")

Floats = npt.NDArray[np.float32]


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Floats],
    others: Mapping[str, bytes | Mapping[str, Any] | list[Any]],
    *,
    files: int = 1,
    dtype: str = "F32",
) -> Path:
    """The folder, which is made if it is absent. `others` are further files by their names, such as the tokenizer's."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"config.json": config, **others}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    names = list(tensors)
    if files == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype)
        return folder
    homes = {}
    for number in range(files):
        file = f"model-{number + 1:05}-of-{files:05}.safetensors"
        held = {name: tensors[name] for name in names[number::files]}
        write_safetensors(folder / file, held, dtype)
        homes.update(dict.fromkeys(held, file))
    size_bytes = sum((folder / file).stat().st_size for file in set(homes.values()))
    index = {"metadata": {"total_size": size_bytes}, "weight_map": homes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_safetensors(path: Path, tensors: Mapping[str, Floats], dtype: str = "F32") -> None:
    """The length of the header, the header in JSON, and the data, which begins at a multiple of eight bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data: list[bytes] = []
    end = 0
    for name, tensor in tensors.items():
        raw = _raw(np.ascontiguousarray(tensor, np.float32), dtype)
        header[name] = {
            "dtype": dtype,
            "shape": list(tensor.shape),
            "data_offsets": [end, end + len(raw)],
        }
        data.append(raw)
        end += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(b"".join((struct.pack("<Q", len(text)), text, *data)))


def read_safetensors(path: Path) -> dict[str, Floats]:
    """The tensors in float32; those of other types are left out."""
    data = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    found = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = (start + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
    return found


def _raw(tensor: Floats, dtype: str) -> bytes:
    if dtype == "BF16":  # the upper half of a float32, rounded to even
        bits = tensor.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return tensor.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
