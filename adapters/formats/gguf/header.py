"""Reads a GGUF file's header: key-values, positions of arrays, tensors. Every number is checked before it is used."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from corral.adapters.formats.gguf.cursor import Cursor
from corral.adapters.formats.gguf.tables import ARRAY, SCALARS, STRING, TENSOR_TYPES
from corral.core.errors import InvalidModelFile
from corral.core.random_access import RandomAccess

__all__ = ("MAGIC", "Array", "Header", "HeaderFile", "Tensor")

MAGIC = b"GGUF"

_ALIGNMENT = "general.alignment"
_TYPED = {_ALIGNMENT: ("I", "32-bit number"), "adapter.lora.alpha": ("f", "32-bit float")}
"""Keys that llama.cpp reads as values of this type, whatever they are: another one ends the process."""

_KEY_LIMIT_BYTES = 65535
_STRING_LIMIT_BYTES = 16 * 1024 * 1024
_ARRAY_LIMIT_BYTES = 64 * 1024 * 1024
# Real files stay far below these limits: about 60 pairs, 2,000 tensors, 260,000 tokens, 520,000 merges, templates of
# 100 kB. Each pair and tensor becomes a Python object, and each string of an array costs a turn of a loop.
_PAIRS_LIMIT = 16_384
_TENSORS_LIMIT = 65_536
_STRINGS_LIMIT = 4_194_304
_TEXT_LIMIT_BYTES = 32 * 1024 * 1024
_TENSOR_NAME_LIMIT_BYTES = 255
_ARRAY_LENGTH_LIMIT = 1_048_576  # of the arrays that are read; the file may have longer ones
_MAX_DIMENSIONS = 4
_EXACT_INTEGERS = 1 << 24  # up to here, every integer is a float of its own
_LENGTH = struct.Struct("<Q")
_MIN_PAIR_BYTES = 8 + 4 + 1  # an empty key, a type, one byte of value
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8
_PAST_FORMATS = {b"lmgg": "GGML", b"fmgg": "GGMF", b"tjgg": "GGJT"}


class Array(NamedTuple):
    """The position of an array, whose values `HeaderFile.values` reads on demand."""

    element_type: int
    length: int
    offset_bytes: int
    size_bytes: int


class Tensor(NamedTuple):
    """`shape` is in file order, the fastest dimension first; `offset_bytes` counts from the start of the file."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    size_bytes: int
    offset_bytes: int


class Header(NamedTuple):
    """`pair_spans` says where each key-value is in the file: (start, end) in bytes."""

    version: int
    pairs: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    alignment: int
    pair_spans: Mapping[str, tuple[int, int]]


class HeaderFile:
    """Reads the header of one GGUF file. Everything raises `InvalidModelFile` with file name, offset and fault."""

    def __init__(self, source: RandomAccess) -> None:
        self._at = Cursor(source)
        self._text_bytes = self._string_count = 0  # of the header so far

    def header(self) -> Header:
        """The whole header, with positions instead of values for arrays."""
        version = self._begin()
        tensor_count, pair_count = self._at.u64(), self._at.u64()
        self._check_count(pair_count, _MIN_PAIR_BYTES, "key-value pairs", _PAIRS_LIMIT)
        self._check_count(tensor_count, _MIN_TENSOR_BYTES, "tensors", _TENSORS_LIMIT)
        self._text_bytes = self._string_count = 0
        pairs: dict[str, Any] = {}
        spans: dict[str, tuple[int, int]] = {}
        for _ in range(pair_count):
            start = self._at.offset_bytes
            key = self._text(_KEY_LIMIT_BYTES, "a key")
            if not key:
                raise self._at.error("a key is empty")
            if key in pairs:
                raise self._at.error(f"the key {key!r} occurs twice")
            pairs[key] = self._value(key)
            spans[key] = start, self._at.offset_bytes
        alignment = pairs.get(_ALIGNMENT, 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._at.error(f"{_ALIGNMENT} is {alignment!r}, not a power of two")
        found = [self._tensor() for _ in range(tensor_count)]
        return Header(version, pairs, self._placed(found, alignment), alignment, spans)

    def _placed(self, found: list[Tensor], alignment: int) -> tuple[Tensor, ...]:
        """The tensors with their offsets in the file. Each must begin where the one before it ends, as in llama.cpp:
        so none overlap, and none are where they are not aligned."""
        start = -(-self._at.offset_bytes // alignment) * alignment
        tensors, names, expected = list[Tensor](), set[str](), 0
        for tensor in found:
            if tensor.name in names:
                raise self._at.error(f"the tensor {tensor.name!r} occurs twice")
            if tensor.offset_bytes != expected:
                raise self._at.error(
                    f"the tensor {tensor.name!r} begins at byte {tensor.offset_bytes} of the data instead of {expected}"
                )
            end = start + expected + tensor.size_bytes
            if end > self._at.size_bytes:
                raise self._at.error(
                    f"the tensor {tensor.name!r} ends at byte {end}, but the file at {self._at.size_bytes}: "
                    "it is truncated"
                )
            names.add(tensor.name)
            tensors.append(tensor._replace(offset_bytes=start + expected))
            expected += -(-tensor.size_bytes // alignment) * alignment
        return tuple(tensors)

    def values(self, array: Array, *, limit_bytes: int = _ARRAY_LIMIT_BYTES) -> list[Any] | None:
        """The values of an array; None if it is too long to be useful, or larger than `limit_bytes`."""
        if array.length > _ARRAY_LENGTH_LIMIT:
            return None
        self._at.seek(array.offset_bytes)
        if array.element_type == STRING:
            return self._strings(array, limit_bytes)
        code = SCALARS[array.element_type]
        size_bytes = struct.calcsize(f"<{code}") * array.length
        if size_bytes > limit_bytes:
            return None
        found: list[Any] = list(struct.unpack(f"<{array.length}{code}", self._at.take(size_bytes)))
        return [_shortest(number) for number in found] if code == "f" else found

    def bytes_of(self, array: Array, *, limit_bytes: int) -> bytes:
        """The array as it is in the file; empty if it is larger than `limit_bytes`."""
        if array.size_bytes > limit_bytes:
            return b""
        self._at.seek(array.offset_bytes)
        return self._at.take(array.size_bytes)

    def strings_at(self, array: Array, indices: set[int]) -> dict[int, str]:
        """The strings of an array at some indices, without decoding the others."""
        found: dict[int, str] = {}
        self._at.seek(array.offset_bytes)
        passed = 0
        for index in sorted(indices):
            if 0 <= index < array.length:
                self._at.skip_strings(index - passed)
                found[index] = self._at.string(_STRING_LIMIT_BYTES, "a token")
                passed = index + 1
        return found

    def _begin(self) -> int:
        """Checks the magic and returns the version."""
        start = self._at.take(min(self._at.size_bytes, 24))
        if start[:4] != MAGIC:
            raise InvalidModelFile(f"{self._at.name}: not a GGUF file: {_guess(start)}")
        self._at.seek(4)
        version = self._at.u32()
        if version & 0xFFFF == 0 and version:
            raise self._at.error("the file is big-endian, which no engine supports", "convert it on this machine")
        if version not in (2, 3):
            age = "too old" if version < 2 else "too new"
            raise self._at.error(
                f"GGUF version {version} is {age}: only versions 2 and 3 are supported", "convert the model again"
            )
        return version

    def _value(self, key: str) -> Any:
        kind = self._at.u32()
        code = SCALARS.get(kind, "")
        wanted, described = _TYPED.get(key, (code, ""))
        if code != wanted:
            raise self._at.error(f"{key} is not a {described}")
        if kind == STRING:
            return self._text(_STRING_LIMIT_BYTES, f"the value of {key!r}")
        if kind == ARRAY:
            return self._array(key)
        if not code:
            raise self._at.error(f"the value of {key!r} has the unknown type {kind}")
        if code == "?":
            return self._at.take(1) != b"\0"
        number = struct.unpack(f"<{code}", self._at.take(struct.calcsize(f"<{code}")))[0]
        return _shortest(number) if code == "f" else number

    def _array(self, key: str) -> Array:
        kind, count = self._at.u32(), self._at.u64()
        start = self._at.offset_bytes
        if kind == STRING:
            self._check_count(count, 8, f"strings in {key!r}", _STRINGS_LIMIT - self._string_count)
            self._string_count += count
            self._at.skip_strings(count)
        elif kind in SCALARS:
            size_bytes = struct.calcsize(f"<{SCALARS[kind]}")
            self._check_count(count, size_bytes, f"values in {key!r}")
            self._at.skip(count * size_bytes)
        else:
            raise self._at.error(f"the array {key!r} holds the unknown type {kind}")
        return Array(kind, count, start, self._at.offset_bytes - start)

    def _tensor(self) -> Tensor:
        """The next entry of the tensor list; its offset still counts from the start of the tensor data."""
        name = self._text(_TENSOR_NAME_LIMIT_BYTES, "a tensor's name")
        dimensions = self._at.u32()
        if dimensions > _MAX_DIMENSIONS:
            raise self._at.error(
                f"the tensor {name!r} has {dimensions} dimensions; at most {_MAX_DIMENSIONS} are allowed"
            )
        shape = tuple(self._at.u64() for _ in range(dimensions))
        if 0 in shape:
            raise self._at.error(f"the tensor {name!r} has the shape {shape}, so it is empty")
        kind, offset = self._at.u32(), self._at.u64()
        if kind not in TENSOR_TYPES:
            raise self._at.error(f"the tensor {name!r} has the unknown type {kind}")
        type_name, block, block_bytes = TENSOR_TYPES[kind]
        if shape and shape[0] % block:
            raise self._at.error(
                f"the tensor {name!r} has rows of {shape[0]} elements, but {type_name} needs a multiple of {block}"
            )
        return Tensor(name, type_name, shape, math.prod(shape) // block * block_bytes, offset)

    def _strings(self, array: Array, limit_bytes: int) -> list[str] | None:
        # A tight loop over one piece of the file: vocabularies have hundreds of thousands of entries.
        if array.size_bytes > limit_bytes + 8 * array.length:
            return None
        data, position, length_at = self._at.take(array.size_bytes), 0, _LENGTH.unpack_from
        found = []
        try:
            for _ in range(array.length):
                start = position + 8
                position = start + length_at(data, position)[0]
                found.append(data[start:position].decode("utf-8", "replace"))
        except struct.error as error:
            raise self._at.error("the file changed while it was being read") from error
        return found

    def _text(self, limit_bytes: int, what: str) -> str:
        """Reads a string that stays in memory with the header."""
        start = self._at.offset_bytes
        text = self._at.string(limit_bytes, what)
        self._text_bytes += self._at.offset_bytes - start
        if self._text_bytes > _TEXT_LIMIT_BYTES:
            raise self._at.error(f"its keys, strings and names take more than {_TEXT_LIMIT_BYTES} bytes")
        return text

    def _check_count(self, count: int, least_bytes: int, what: str, limit: int | None = None) -> None:
        if count * least_bytes > self._at.size_bytes - self._at.offset_bytes:
            raise self._at.error(f"{count} {what} cannot fit into a file of {self._at.size_bytes} bytes")
        if limit is not None and count > limit:
            raise self._at.error(f"it has {count} {what}; at most {limit} are read", "no real model has as many")


def _shortest(number: float) -> float:
    """The shortest decimal that is the same 32-bit float: 1e-05 instead of 9.999999747378752e-06."""
    if not math.isfinite(number) or (abs(number) < _EXACT_INTEGERS and number == int(number)):
        return number
    packed = struct.pack("<f", number)
    candidates = (float(f"{number:.{digits}g}") for digits in (6, 7, 8))
    return next((value for value in candidates if _packs_to(value, packed)), number)


def _packs_to(value: float, packed: bytes) -> bool:
    try:
        return struct.pack("<f", value) == packed
    except OverflowError:  # rounded up beyond the largest float
        return False


def _guess(start: bytes) -> str:
    """What a file without the magic seems to be, for the error message."""
    if not start:
        return "it is empty"
    if start[:4] in _PAST_FORMATS:
        return f"it is {_PAST_FORMATS[start[:4]]}, which llama.cpp dropped in 2023"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; the weights themselves were not fetched"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return f"it is text beginning with {start.decode('ascii')!r}"
    return f"it begins with {start[:4].hex(' ')}"
