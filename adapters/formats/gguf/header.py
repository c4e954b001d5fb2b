"""Reads a GGUF file's header: key-values, places of arrays, tensors. Every number is checked before it is believed."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from corral.adapters.formats.gguf.tables import ARRAY, SCALARS, STRING, TENSOR_TYPES
from corral.adapters.system.regular_files import open_regular
from corral.core.errors import InvalidModelFile

__all__ = ("MAGIC", "Array", "Header", "HeaderFile", "Tensor")

MAGIC = b"GGUF"

_WINDOW_BYTES = 1024 * 1024
_KEY_LIMIT_BYTES = 65535
_STRING_LIMIT_BYTES = 16 * 1024 * 1024
_ARRAY_LIMIT_BYTES = 64 * 1024 * 1024
# Far above what real files have: some 60 pairs, 2,000 tensors, 260,000 tokens with 520,000 merges, templates of 100 kB.
# Every pair and tensor becomes a Python object, and every string of an array a turn of a loop.
_PAIRS_LIMIT = 16_384
_TENSORS_LIMIT = 65_536
_STRINGS_LIMIT = 4_194_304
_TEXT_LIMIT_BYTES = 32 * 1024 * 1024
_TENSOR_NAME_LIMIT_BYTES = 255
_ARRAY_LENGTH_LIMIT = 1_048_576  # of what is read of an array; longer ones may be there
_MAX_DIMENSIONS = 4
_MIN_PAIR_BYTES = 8 + 4 + 1  # an empty key, a type, one byte of value
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8
_PAST_FORMATS = {b"lmgg": "GGML", b"fmgg": "GGMF", b"tjgg": "GGJT"}

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Array(NamedTuple):
    """Where an array is; its values are read when somebody asks (`HeaderFile.values`)."""

    element_type: int
    length: int
    offset_bytes: int


class Tensor(NamedTuple):
    """`shape` is in file order, the fastest dimension first; `offset_bytes` counts from the file's beginning."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    size_bytes: int
    offset_bytes: int


class Header(NamedTuple):
    version: int
    pairs: Mapping[str, Any]
    tensors: tuple[Tensor, ...]


class HeaderFile:
    """An open GGUF file, to be used with ``with``. Everything raises `InvalidModelFile` naming file, offset and fault.

    Reads through a window instead of mapping: a file cut short while it is mapped would kill the process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = open_regular(path)
        except OSError as error:
            raise InvalidModelFile(f"{path}: {error.strerror}") from error
        self._size = os.fstat(self._file.fileno()).st_size
        self._text_bytes = self._string_count = 0  # of the header so far
        self._base = 0
        self._window = b""
        self._position = 0  # in the window; may lie beyond its end after a skip

    def __enter__(self) -> HeaderFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def header(self) -> Header:
        """Everything but the arrays' values, whose places are given."""
        version = self._begin()
        tensor_count, pair_count = self._u64(), self._u64()
        self._check_count(pair_count, _MIN_PAIR_BYTES, "key-value pairs", _PAIRS_LIMIT)
        self._check_count(tensor_count, _MIN_TENSOR_BYTES, "tensors", _TENSORS_LIMIT)
        self._text_bytes = self._string_count = 0
        pairs: dict[str, Any] = {}
        for _ in range(pair_count):
            key = self._text(_KEY_LIMIT_BYTES, "a key")
            if key in pairs:
                raise self._error(f"the key {key!r} occurs twice")
            pairs[key] = self._value(key)
        alignment = pairs.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._error(f"general.alignment is {alignment!r}, not a power of two")
        found = [self._tensor() for _ in range(tensor_count)]
        start = -(-self._offset // alignment) * alignment
        tensors = tuple(tensor._replace(offset_bytes=start + tensor.offset_bytes) for tensor in found)
        for tensor in tensors:
            end = tensor.offset_bytes + tensor.size_bytes
            if end > self._size:
                raise self._error(
                    f"the tensor {tensor.name!r} ends at byte {end}, but the file at {self._size}: it is truncated"
                )
        if sum(tensor.size_bytes for tensor in tensors) > self._size:
            raise self._error(f"the tensors together are larger than the file ({self._size} bytes)")
        return Header(version, pairs, tensors)

    def values(self, array: Array, *, limit_bytes: int = _ARRAY_LIMIT_BYTES) -> list[Any] | None:
        """An array's values; None for one too big to be of use, or larger than `limit_bytes`."""
        if array.length > _ARRAY_LENGTH_LIMIT:
            return None
        self._seek(array.offset_bytes)
        if array.element_type == STRING:
            return self._strings(array.length, limit_bytes)
        code = SCALARS[array.element_type]
        size_bytes = struct.calcsize(f"<{code}") * array.length
        if size_bytes > limit_bytes:
            return None
        found: list[Any] = list(struct.unpack(f"<{array.length}{code}", self._take(size_bytes)))
        return [_shortest(number) for number in found] if code == "f" else found

    def strings_at(self, array: Array, indices: set[int]) -> dict[int, str]:
        """Some strings of a long array, without reading the others."""
        found: dict[int, str] = {}
        self._seek(array.offset_bytes)
        passed = 0
        for index in sorted(indices):
            if 0 <= index < array.length:
                self._skip_strings(index - passed)
                found[index] = self._string(_STRING_LIMIT_BYTES, "a token")
                passed = index + 1
        return found

    def _begin(self) -> int:
        """Magic and version."""
        start = self._take(min(self._size, 24))
        if start[:4] != MAGIC:
            raise InvalidModelFile(f"{self._path}: not a GGUF file: {_guess(start)}")
        self._seek(4)
        version = self._u32()
        if version & 0xFFFF == 0 and version:
            raise self._error("the file is big-endian, which no engine supports", "convert it on this machine")
        if version not in (2, 3):
            age = "too old" if version < 2 else "too new"
            raise self._error(
                f"GGUF version {version} is {age}: only versions 2 and 3 are supported", "convert the model again"
            )
        return version

    def _value(self, key: str) -> Any:
        kind = self._u32()
        if kind == STRING:
            return self._text(_STRING_LIMIT_BYTES, f"the value of {key!r}")
        if kind == ARRAY:
            return self._array(key)
        if kind not in SCALARS:
            raise self._error(f"the value of {key!r} has the unknown type {kind}")
        code = SCALARS[kind]
        if code == "?":
            return self._take(1) != b"\0"
        number = struct.unpack(f"<{code}", self._take(struct.calcsize(f"<{code}")))[0]
        return _shortest(number) if code == "f" else number

    def _array(self, key: str) -> Array:
        kind, count = self._u32(), self._u64()
        array = Array(kind, count, self._offset)
        if kind == STRING:
            self._check_count(count, 8, f"strings in {key!r}", _STRINGS_LIMIT - self._string_count)
            self._string_count += count
            self._skip_strings(count)
        elif kind in SCALARS:
            size_bytes = struct.calcsize(f"<{SCALARS[kind]}")
            self._check_count(count, size_bytes, f"values in {key!r}")
            self._skip(count * size_bytes)
        else:
            raise self._error(f"the array {key!r} holds the unknown type {kind}")
        return array

    def _tensor(self) -> Tensor:
        """The next entry of the list; its offset still counts from where the tensors' data begin."""
        name = self._text(_TENSOR_NAME_LIMIT_BYTES, "a tensor's name")
        dimensions = self._u32()
        if dimensions > _MAX_DIMENSIONS:
            raise self._error(f"the tensor {name!r} has {dimensions} dimensions; at most {_MAX_DIMENSIONS} are allowed")
        shape = tuple(self._u64() for _ in range(dimensions))
        kind, offset = self._u32(), self._u64()
        if kind not in TENSOR_TYPES:
            raise self._error(f"the tensor {name!r} has the unknown type {kind}")
        type_name, block, block_bytes = TENSOR_TYPES[kind]
        if shape and shape[0] % block:
            raise self._error(
                f"the tensor {name!r} has rows of {shape[0]} elements, but {type_name} needs a multiple of {block}"
            )
        return Tensor(name, type_name, shape, math.prod(shape) // block * block_bytes, offset)

    def _strings(self, count: int, limit_bytes: int) -> list[str] | None:
        found, size_bytes = [], 0
        for _ in range(count):
            found.append(self._string(_STRING_LIMIT_BYTES, "a string"))
            size_bytes += len(found[-1])
            if size_bytes > limit_bytes:
                return None
        return found

    def _string(self, limit_bytes: int, what: str) -> str:
        length = self._u64()
        if length > self._size - self._offset:
            raise self._error(f"{what} claims to be {length} bytes long, past the file's end: it is truncated")
        if length > limit_bytes:
            raise self._error(f"{what} claims to be {length} bytes long; at most {limit_bytes} are allowed")
        return self._take(length).decode("utf-8", "replace")

    def _text(self, limit_bytes: int, what: str) -> str:
        """A string that stays in memory with the header."""
        start = self._offset
        text = self._string(limit_bytes, what)
        self._text_bytes += self._offset - start
        if self._text_bytes > _TEXT_LIMIT_BYTES:
            raise self._error(f"its keys, strings and names take more than {_TEXT_LIMIT_BYTES} bytes")
        return text

    def _skip_strings(self, count: int) -> None:
        # The tight loop of this module: vocabularies have hundreds of thousands of entries.
        window, position, length_at = self._window, self._position, _U64.unpack_from
        last = len(window) - 8
        for _ in range(count):
            if position > last:
                self._position = position
                self._fill(8)
                window, position = self._window, self._position
                last = len(window) - 8
            position += 8 + length_at(window, position)[0]
        self._position = position
        self._fill(0)

    def _check_count(self, count: int, least_bytes: int, what: str, limit: int | None = None) -> None:
        if count * least_bytes > self._size - self._offset:
            raise self._error(f"{count} {what} cannot fit into a file of {self._size} bytes")
        if limit is not None and count > limit:
            raise self._error(f"it has {count} {what}; at most {limit} are read", "no real model has as many")

    def _u32(self) -> int:
        return int(_U32.unpack(self._take(4))[0])

    def _u64(self) -> int:
        return int(_U64.unpack(self._take(8))[0])

    def _take(self, size_bytes: int) -> bytes:
        self._fill(size_bytes)
        start = self._position
        self._position += size_bytes
        return self._window[start : self._position]

    def _skip(self, size_bytes: int) -> None:
        self._position += size_bytes
        self._fill(0)

    def _seek(self, offset_bytes: int) -> None:
        self._position = offset_bytes - self._base
        if self._position < 0:
            self._base, self._window, self._position = offset_bytes, b"", 0

    def _fill(self, size_bytes: int) -> None:
        """Makes the next bytes available in the window."""
        if self._offset + size_bytes > self._size:
            raise self._error(f"the file ends here, at {self._size} bytes: it is truncated")
        if self._position + size_bytes <= len(self._window):
            return
        offset = self._offset
        try:
            self._file.seek(offset)
            parts = []
            missing = max(size_bytes, min(_WINDOW_BYTES, self._size - offset))
            while missing and (part := self._file.read(missing)):
                parts.append(part)
                missing -= len(part)
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        self._base, self._window, self._position = offset, b"".join(parts), 0
        if len(self._window) < size_bytes:
            raise self._error("the file got shorter while it was being read")

    @property
    def _offset(self) -> int:
        return self._base + self._position

    def _error(self, text: str, remedy: str | None = None) -> InvalidModelFile:
        return InvalidModelFile(
            f"{self._path}: at byte {self._offset}: {text}", remedy or "fetch or convert the file again"
        )


def _shortest(number: float) -> float:
    """The shortest decimal that is the same 32-bit float: 1e-05, and not 9.999999747378752e-06."""
    if not math.isfinite(number):
        return number
    packed = struct.pack("<f", number)
    candidates = (float(f"{number:.{digits}g}") for digits in (6, 7, 8))
    return next((value for value in candidates if _packs_to(value, packed)), number)


def _packs_to(value: float, packed: bytes) -> bool:
    try:
        return struct.pack("<f", value) == packed
    except OverflowError:  # rounded up beyond the greatest float
        return False


def _guess(start: bytes) -> str:
    """What a file without the magic is, for the message."""
    if not start:
        return "it is empty"
    if start[:4] in _PAST_FORMATS:
        return f"it is {_PAST_FORMATS[start[:4]]}, which llama.cpp dropped in 2023"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; the weights themselves were not fetched"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return f"it is text beginning with {start.decode('ascii')!r}"
    return f"it begins with {start[:4].hex(' ')}"
