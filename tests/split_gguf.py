"""Splits a GGUF file as ``llama-gguf-split --split`` of llama.cpp does."""

from __future__ import annotations

import struct
from pathlib import Path

from corral.adapters.formats.gguf.header import HeaderFile
from corral.adapters.formats.gguf.writer import NewTensor, assembled_header, padding
from corral.core.random_access import RandomAccessFile

__all__ = ("split_gguf", "split_keys")

_U16, _I32 = 2, 5


def split_keys(number: int, count: int, tensors: int) -> list[bytes]:
    """The key-values that make a file the part `number`, as they are in the file."""
    values = (
        ("split.no", _U16, "H", number),
        ("split.count", _U16, "H", count),
        ("split.tensors.count", _I32, "i", tensors),
    )
    return [
        struct.pack("<Q", len(key)) + key.encode() + struct.pack(f"<I{code}", kind, value)
        for key, kind, code, value in values
    ]


def split_gguf(
    path: Path, count: int, *, folder: Path | None = None, first_is_empty: bool = False, tensors: int | None = None
) -> list[Path]:
    """Writes `count` parts beside the file, or into `folder`. Only the first has the file's own key-values.

    `tensors` is what the parts say that they have together, by default the truth.
    """
    with RandomAccessFile(path) as source:
        header = HeaderFile(source).header()
        pairs = [source.read(start, end - start) for start, end in header.pair_spans.values()]
        filled = count - first_is_empty
        share = -(-len(header.tensors) // filled)
        found = []
        for number in range(count):
            at = (number - first_is_empty) * share
            mine = header.tensors[at : at + share] if at >= 0 else ()
            alignment = header.alignment if number == 0 else 32  # general.alignment is in the first alone
            keys = split_keys(number, count, len(header.tensors) if tensors is None else tensors)
            new = [NewTensor(one.name, one.type_name, one.shape, one.size_bytes) for one in mine]
            data = assembled_header(header.version, [*(pairs if number == 0 else ()), *keys], new, alignment)
            for one in mine:
                data += source.read(one.offset_bytes, one.size_bytes) + bytes(padding(one.size_bytes, alignment))
            part = (folder or path.parent) / f"{path.stem}-{number + 1:05d}-of-{count:05d}.gguf"
            part.write_bytes(data)
            found.append(part)
    return found
