"""Writes small GGUF files, so that tests of readers, stores and sources need no real weights."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ("SMALL_MODEL", "Tagged", "TensorEntry", "gguf_bytes")

_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_ALIGNMENT = 32


class Tagged(NamedTuple):
    """A value with an explicit GGUF type, if the Python type is ambiguous."""

    type_id: int
    value: Any


class TensorEntry(NamedTuple):
    """A tensor as the header lists it, the fastest dimension first. Without `data`, `size_bytes` zeros are written."""

    name: str
    shape: Sequence[int] = (32,)
    type_id: int = 0
    size_bytes: int = 128
    data: bytes | None = None


SMALL_MODEL: Mapping[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Small",
    "general.file_type": 3,
    "llama.block_count": 2,
    "llama.context_length": 256,
    "llama.embedding_length": 32,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-05,
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
}
"""The key-values of a complete small model."""


def gguf_bytes(
    pairs: Mapping[str, Any] = SMALL_MODEL,
    tensors: Sequence[TensorEntry] = (TensorEntry("token_embd.weight"),),
    *,
    version: int = 3,
) -> bytes:
    """A whole GGUF file. Integers become uint32, floats float32, and lists arrays of their first element's type."""
    header = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(pairs))
    header += b"".join(_string(key) + _value(value) for key, value in pairs.items())
    offset = 0
    data = b""
    for tensor in tensors:
        header += _string(tensor.name) + struct.pack("<I", len(tensor.shape))
        header += struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape) + struct.pack("<IQ", tensor.type_id, offset)
        data += _padded(bytes(tensor.size_bytes) if tensor.data is None else tensor.data)
        offset = len(data)
    return _padded(header) + data


def _value(value: Any) -> bytes:
    type_id, plain = value if isinstance(value, Tagged) else (_type_of(value), value)
    return struct.pack("<I", type_id) + _body(type_id, plain)


def _body(type_id: int, value: Any) -> bytes:
    if type_id == 8:
        return _string(value)
    if type_id == 9:
        element_type = _type_of(value[0]) if value else 4
        plain = (item.value if isinstance(item, Tagged) else item for item in value)
        return struct.pack("<IQ", element_type, len(value)) + b"".join(_body(element_type, item) for item in plain)
    return struct.pack("<" + _CODES[type_id], value)


def _type_of(value: Any) -> int:
    if isinstance(value, Tagged):
        return value.type_id
    return {bool: 7, int: 4, float: 6, str: 8, list: 9}[type(value)]


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
