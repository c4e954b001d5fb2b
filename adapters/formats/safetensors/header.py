"""Reads the header of one safetensors file. Every number is checked before it is used.

Source: the format's description at https://github.com/huggingface/safetensors. A file begins with the length of its
header (eight bytes, little-endian), then the header: a JSON object from names to ``dtype``, ``shape`` and
``data_offsets``, which count from the end of the header. The data has no gaps.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Annotated, NamedTuple, NoReturn

import msgspec

from corral.core.errors import InvalidModelFile
from corral.core.malformed import MALFORMED
from corral.core.random_access import RandomAccess

__all__ = ("ELEMENT_BYTES", "SafeTensor", "read_header")

ELEMENT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""The dtypes that are read here, and the bytes of a number."""

_OTHER_DTYPES = {
    "F64": 64, "I64": 64, "U64": 64, "I32": 32, "U32": 32, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
_BITS = {name: 8 * size for name, size in ELEMENT_BYTES.items()} | _OTHER_DTYPES

_HEADER_LIMIT_BYTES = 100_000_000  # the format's own
_TENSORS_LIMIT = 65_536
_DIMENSIONS_LIMIT = 8
_NAME_LIMIT_BYTES = 512
_METADATA = "__metadata__"
_LENGTH = struct.Struct("<Q")

_Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 62))]


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[_Size, ...]
    data_offsets: tuple[_Size, _Size]


class SafeTensor(NamedTuple):
    """`shape` is in NumPy's order; `offset_bytes` counts from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    offset_bytes: int


def read_header(source: RandomAccess) -> Mapping[str, SafeTensor]:
    """The tensors by name, in the order of their data.

    Raises `InvalidModelFile`, which names file and tensor, for a header that is malformed or absurdly large, a dtype
    that does not exist, and for data that overlaps, has gaps, does not fit its shape, or lies outside of the file.
    """
    length_bytes = _length(source)
    entries = _entries(source, length_bytes)
    start = _LENGTH.size + length_bytes
    found, expected = dict[str, SafeTensor](), 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        tensor = _tensor(source, name, entry, expected)
        expected += tensor.size_bytes
        found[name] = tensor._replace(offset_bytes=start + tensor.offset_bytes)
    if start + expected != source.size_bytes:
        what = "is truncated" if start + expected > source.size_bytes else "has more than its tensors"
        _fail(source, f"its tensors end at byte {start + expected}, the file at {source.size_bytes}: it {what}")
    return found


def _length(source: RandomAccess) -> int:
    head = source.read(0, _LENGTH.size)
    if head.startswith(b"version "):
        _fail(source, "it is a Git LFS pointer; the weights themselves were not fetched", "run git lfs pull")
    if len(head) < _LENGTH.size:
        _fail(source, f"it has only {len(head)} bytes")
    (length_bytes,) = _LENGTH.unpack(head)
    if length_bytes > min(_HEADER_LIMIT_BYTES, source.size_bytes - _LENGTH.size):
        _fail(
            source,
            f"not a safetensors file: its header would have {length_bytes} bytes, "
            f"the file has {source.size_bytes}, and at most {_HEADER_LIMIT_BYTES} are read",
        )
    return int(length_bytes)


def _entries(source: RandomAccess, length_bytes: int) -> dict[str, _Entry]:
    data = source.read(_LENGTH.size, length_bytes)
    if data[:1] != b"{":
        _fail(source, f"not a safetensors file: its header begins with {data[:4]!r} instead of '{{'")
    try:
        raw = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except MALFORMED as error:
        _fail(source, f"its header is malformed: {error}")
    raw.pop(_METADATA, None)  # free text about the file
    if len(raw) > _TENSORS_LIMIT:
        _fail(source, f"it has {len(raw)} tensors; at most {_TENSORS_LIMIT} are read", "no real model has as many")
    found = {}
    for name, entry in raw.items():
        try:
            found[name] = msgspec.json.decode(entry, type=_Entry)
        except MALFORMED as error:
            _fail(source, f"the tensor {name[:100]!r} is malformed: {error}")
    return found


def _tensor(source: RandomAccess, name: str, entry: _Entry, expected: int) -> SafeTensor:
    """The tensor, checked; its offset still counts from the start of the data, where it must be at `expected`."""
    what = f"the tensor {name[:100]!r}"
    if not name or len(name.encode()) > _NAME_LIMIT_BYTES:
        _fail(source, f"{what} has a name of {len(name.encode())} bytes; it must have 1 to {_NAME_LIMIT_BYTES}")
    if entry.dtype not in _BITS:
        _fail(source, f"{what} has the unknown dtype {entry.dtype[:40]!r}")
    if len(entry.shape) > _DIMENSIONS_LIMIT:
        _fail(source, f"{what} has {len(entry.shape)} dimensions; at most {_DIMENSIONS_LIMIT} are read")
    start, end = entry.data_offsets
    size_bits = math.prod(entry.shape) * _BITS[entry.dtype]
    if end < start or 8 * (end - start) != size_bits:
        _fail(
            source,
            f"{what} of the shape {list(entry.shape)} and the dtype {entry.dtype} would have {size_bits / 8:g} bytes, "
            f"but its data goes from {start} to {end}",
        )
    if start != expected:
        fault = "overlaps another" if start < expected else "leaves a gap"
        _fail(source, f"{what} begins at byte {start} of the data instead of {expected}: it {fault}")
    return SafeTensor(name, entry.dtype, entry.shape, end - start, start)


def _fail(source: RandomAccess, fault: str, remedy: str = "fetch the file again") -> NoReturn:
    raise InvalidModelFile(f"{source.name}: {fault}", remedy)
