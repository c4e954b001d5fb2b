"""Writes the header of a GGUF file; the data of each tensor follows at its offset."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from corral.adapters.formats.gguf.header import MAGIC
from corral.adapters.formats.gguf.tables import ARRAY, STRING, TENSOR_TYPES

__all__ = ("ALIGNMENT", "NewTensor", "assembled_header", "gguf_header", "padding")

ALIGNMENT = 32
"""The alignment in bytes of a file without ``general.alignment``."""

_U32, _I32, _F32, _BOOL, _U64, _I64 = 4, 5, 6, 7, 10, 11
_CODES = {_U32: "I", _I32: "i", _F32: "f", _BOOL: "?", _U64: "Q", _I64: "q"}
_TYPE_IDS = {kind.name: type_id for type_id, kind in TENSOR_TYPES.items()}


class NewTensor(NamedTuple):
    """A tensor to be written. `shape` is in file order, the fastest dimension first."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    size_bytes: int


def gguf_header(version: int, pairs: Mapping[str, Any], tensors: Sequence[NewTensor]) -> bytes:
    """Everything before the data, padded. The data of each tensor must be padded to `ALIGNMENT` as well.

    A value's type follows from the Python type: bool, str, float (32 bits), int (32 bits if it fits, unsigned unless
    negative), and lists of one of them; bytes in a list are written as a string. A list of ints is a list of int32.
    """
    encoded = [
        _string(key.encode()) + struct.pack("<I", type_id := _type_id(value)) + _value(type_id, value)
        for key, value in pairs.items()
    ]
    return assembled_header(version, encoded, tensors)


def assembled_header(
    version: int, pairs: Sequence[bytes], tensors: Sequence[NewTensor], alignment: int = ALIGNMENT
) -> bytes:
    """As `gguf_header`, of key-values as they are in a file, for data that is padded to `alignment`."""
    parts = [struct.pack("<4sIQQ", MAGIC, version, len(tensors), len(pairs)), *pairs]
    offset_bytes = 0
    for tensor in tensors:
        parts += (
            _string(tensor.name.encode()),
            struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape),
            struct.pack("<IQ", _TYPE_IDS[tensor.type_name], offset_bytes),
        )
        offset_bytes += tensor.size_bytes + padding(tensor.size_bytes, alignment)
    header = b"".join(parts)
    return header + bytes(padding(len(header), alignment))


def padding(size_bytes: int, alignment: int = ALIGNMENT) -> int:
    """The number of bytes up to the next multiple of `alignment`."""
    return -size_bytes % alignment


def _type_id(value: Any) -> int:
    if isinstance(value, list):
        return ARRAY
    if isinstance(value, str | bytes):
        return STRING
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, float):
        return _F32
    if value < 0:
        return _I32 if value >= -(1 << 31) else _I64
    return _U32 if value < 1 << 32 else _U64


def _value(type_id: int, value: Any) -> bytes:
    if type_id == STRING:
        return _string(value if isinstance(value, bytes) else value.encode())
    if type_id != ARRAY:
        return struct.pack(f"<{_CODES[type_id]}", value)
    element = _type_id(value[0]) if value else _I32
    if element in (_U32, _U64, _I64):
        element = _I32
    start = struct.pack("<IQ", element, len(value))
    if element == STRING:
        return start + b"".join([_value(STRING, item) for item in value])
    return start + struct.pack(f"<{len(value)}{_CODES[element]}", *value)


def _string(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data
