"""The file of a computed prefix: what it belongs to, its keys and its state, each with a checksum.

A fixed part (magic, version, length and checksum of the head), the head as MessagePack, then the bytes of the state.
Only what has been checked leaves this module.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from corral.core.malformed import MALFORMED
from corral.core.values import Value

__all__ = ("PrefixHead", "file_parts", "read_head", "read_state", "sealed")

_MAGIC = b"CORRALPX"
_VERSION = 1
_FIXED = struct.Struct("<8sII32s")
_LARGEST_HEAD = 256 << 20
_PIECE_BYTES = 4 << 20


class PrefixHead(Value, frozen=True, kw_only=True):
    """`owner` identifies everything that the state depends on besides the keys, `model` is the model's name for people.

    `keys` and `large` are what `KeyPacker.portable` returns.
    """

    owner: str
    model: str
    keys: bytes
    large: tuple[bytes, ...] = ()
    note: bytes = b""
    state_bytes: int
    state_checksum: bytes = b""


def sealed(head: PrefixHead, state: memoryview) -> PrefixHead:
    """The head, with the checksum of the state."""
    digest = hashlib.blake2b(digest_size=32)
    for piece in _pieces(state):
        digest.update(piece)
    return msgspec.structs.replace(head, state_checksum=digest.digest())


def file_parts(head: PrefixHead, state: memoryview) -> Iterator[bytes | memoryview]:
    """The bytes of the file, in pieces. `head` is `sealed`."""
    encoded = msgspec.msgpack.encode(head)
    yield _FIXED.pack(_MAGIC, _VERSION, len(encoded), _checksum(encoded)) + encoded
    yield from _pieces(state)


def read_head(file: io.FileIO, file_bytes: int) -> PrefixHead | None:
    """The head of a file of this size; None if it is damaged, too short, or of another kind or version."""
    fixed = file.read(_FIXED.size)
    if len(fixed) != _FIXED.size:
        return None
    magic, version, length, checksum = _FIXED.unpack(fixed)
    if magic != _MAGIC or version != _VERSION or length > min(_LARGEST_HEAD, file_bytes):
        return None
    encoded = file.read(length)
    if len(encoded) != length or _checksum(encoded) != checksum:
        return None
    try:
        head = msgspec.msgpack.decode(encoded, type=PrefixHead)
    except MALFORMED:
        return None
    return head if _FIXED.size + length + head.state_bytes == file_bytes else None


def read_state(file: io.FileIO, head: PrefixHead, stopped: Callable[[], bool]) -> bytearray | None:
    """The state that follows the head; None if it is damaged or too short, or if the work is to stop."""
    state = bytearray(head.state_bytes)
    digest = hashlib.blake2b(digest_size=32)
    for piece in _pieces(memoryview(state)):
        if stopped() or file.readinto(piece) != len(piece):
            return None
        digest.update(piece)
    return state if digest.digest() == head.state_checksum else None


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def _pieces(data: Any) -> Iterator[memoryview]:
    view = memoryview(data).cast("B")
    return (view[at : at + _PIECE_BYTES] for at in range(0, len(view), _PIECE_BYTES))
