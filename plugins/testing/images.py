"""Writes small PNG files, so that tests of images need neither files nor a library."""

from __future__ import annotations

import struct
import zlib

__all__ = ("png_bytes",)


def png_bytes(width: int = 8, height: int = 8, colour: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """A whole PNG file of one colour."""
    row = b"\0" + bytes(colour) * width
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * height)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
