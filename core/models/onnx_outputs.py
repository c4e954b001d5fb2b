"""What an ONNX graph returns, read from its file without its weights.

Source: ``onnx.proto`` (``ModelProto.graph``, ``GraphProto.output``, ``TypeProto``); the wire format is that of protocol
buffers.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

__all__ = ("onnx_outputs",)

_GRAPH, _OUTPUT = 7, 12  # of the model, and of its graph
_NAME, _TYPE = 1, 2  # of an output
_TENSOR, _SHAPE, _DIMENSION, _SIZE = 1, 2, 1, 1
_VARINT, _BYTES = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
_LONGEST_VARINT = 10
_OUTPUT_LIMIT_BYTES = 64 * 1024
_OUTPUTS_LIMIT = 64
_FIELDS_LIMIT = 1_000_000  # of a graph: the largest have some ten thousand nodes


def onnx_outputs(path: Path) -> dict[str, tuple[int | None, ...]]:
    """The shape of each tensor that the graph returns, by its name; None is a size that depends on the input.

    Empty for a file that is malformed or has a million parts. Blocking: it skips from part to part. Raises `OSError`.
    """
    with path.open("rb") as file:
        size_bytes = file.seek(0, io.SEEK_END)
        try:
            return dict(islice(_outputs(file, size_bytes), _OUTPUTS_LIMIT))
        except ValueError:
            return {}


def _outputs(file: BinaryIO, size_bytes: int) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    for number, start, end in _parts(file, 0, size_bytes):
        if number == _GRAPH:
            for inner, begin, stop in _parts(file, start, end):
                if inner == _OUTPUT and stop - begin <= _OUTPUT_LIMIT_BYTES:
                    file.seek(begin)
                    yield _named_shape(file.read(stop - begin))
            return


def _named_shape(data: bytes) -> tuple[str, tuple[int | None, ...]]:
    name, shape = "", []
    for number, value in _fields(data):
        if number == _NAME:
            name = value.decode("utf-8", "replace")
        elif number == _TYPE:
            tensor = [inner for kind, inner in _fields(value) if kind == _TENSOR]
            shapes = [inner for part in tensor for kind, inner in _fields(part) if kind == _SHAPE]
            shape = [inner for part in shapes for kind, inner in _fields(part) if kind == _DIMENSION]
    return name, tuple(_fixed_size(dimension) for dimension in shape)


def _fixed_size(dimension: bytes) -> int | None:
    file = io.BytesIO(dimension)
    if not dimension or _varint(file) != _SIZE << 3 | _VARINT:
        return None  # it has a name in place of a number
    return _varint(file)


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    for number, start, end in _parts(io.BytesIO(data), 0, len(data)):
        yield number, data[start:end]


def _parts(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field that has bytes. Raises `ValueError` for what is malformed."""
    place = start
    for _ in range(_FIELDS_LIMIT):
        if place >= end:
            break
        file.seek(place)
        number, wire = divmod(_varint(file), 8)
        if wire == _VARINT:
            _varint(file)
            place = file.tell()
        elif wire == _BYTES:
            size = _varint(file)
            place = file.tell() + size
            if place > end:
                raise ValueError("a part is longer than the whole")
            yield number, place - size, place
        elif wire in _FIXED_BYTES:
            place = file.tell() + _FIXED_BYTES[wire]
        else:
            raise ValueError(f"unknown type {wire} of a field")
    else:
        raise ValueError("too many parts")


def _varint(file: BinaryIO) -> int:
    value = 0
    for place in range(_LONGEST_VARINT):
        byte = file.read(1)
        if not byte:
            raise ValueError("the file ends within a number")
        value |= (byte[0] & 0x7F) << (7 * place)
        if byte[0] < 0x80:
            return value
    raise ValueError("a number is too long")
