"""Reads ``tokenizer.model``, a vocabulary of SentencePiece: its pieces, and how it prepares text.

Source: ``sentencepiece_model.proto``; the wire format is that of protocol buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from corral.core.errors import InvalidModelFile

__all__ = ("BPE", "Piece", "SentencePieceModel", "read_sentencepiece")

BPE = 2
"""`SentencePieceModel.kind` of a vocabulary that is merged by scores; 1 is Unigram."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}


class Piece(NamedTuple):
    """`kind`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte, which are GGUF's numbers too."""

    text: str
    score: float
    kind: int


class SentencePieceModel(NamedTuple):
    """`add_dummy_prefix`: a space is put before every text. `normalizes`: text is changed by a table of characters."""

    pieces: tuple[Piece, ...]
    kind: int
    add_dummy_prefix: bool
    normalizes: bool
    remove_extra_whitespaces: bool


def read_sentencepiece(data: bytes) -> SentencePieceModel:
    """The content of the file. Raises `InvalidModelFile`."""
    pieces = []
    kind, prefix, normalizes, shortens = 1, True, False, True
    try:
        for field, value in _fields(data):
            if field == 1 and isinstance(value, bytes):
                pieces.append(_piece(value))
            elif field == 2 and isinstance(value, bytes):
                kind = _last_number(value, 3, kind)
            elif field == 3 and isinstance(value, bytes):
                prefix = _last_number(value, 3, 1) != 0
                shortens = _last_number(value, 4, 1) != 0
                normalizes = any(field == 2 and inner for field, inner in _fields(value))
    except (ValueError, IndexError, struct.error) as error:
        raise InvalidModelFile(f"tokenizer.model is malformed: {error}", "fetch it again") from error
    if not pieces:
        raise InvalidModelFile("tokenizer.model has no pieces", "fetch it again")
    return SentencePieceModel(tuple(pieces), kind, prefix, normalizes, shortens)


def _piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, 1
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            text = value.decode()
        elif field == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif field == 3 and isinstance(value, int):
            kind = value
    return Piece(text, score, kind)


def _last_number(data: bytes, field: int, default: int) -> int:
    found = default
    for number, value in _fields(data):
        if number == field and isinstance(value, int):
            found = value
    return found


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message by their numbers: numbers, or bytes for all that is not a varint."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        wire = tag & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield tag >> 3, value
            continue
        if wire == _BYTES:
            size, place = _varint(data, place)
        elif wire in _SIZES:
            size = _SIZES[wire]
        else:
            raise ValueError(f"a field has the unknown wire type {wire}")
        if place + size > len(data):
            raise ValueError(f"a field of {size} bytes goes beyond the end")
        yield tag >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
