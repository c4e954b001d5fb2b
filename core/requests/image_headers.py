"""Reads sizes from the headers of image files, and whether the files are complete, without decoding them.

PNG: https://www.w3.org/TR/png-3/; JPEG: ITU-T T.81, annex B; GIF: https://www.w3.org/Graphics/GIF/spec-gif89a.txt;
WebP: RFC 9649; BMP: https://learn.microsoft.com/windows/win32/gdi/bitmap-storage.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from corral.core.values import Value

__all__ = ("ImageHeader", "read_image_header")

_MOST_PARTS = 20_000
"""Chunks or segments; real files have a few dozen before the pixels, and large PNGs some thousands."""
_MOST_BLOCKS = 500_000
"""Of a GIF's first frame; 255 bytes each, in real files."""

_PADDING = re.compile(b"\xff*")


class ImageHeader(Value, frozen=True, kw_only=True):
    """`format` is the subtype of its MIME type. `truncated`: the file ends before its pixels do."""

    format: str
    width: int
    height: int
    truncated: bool = False

    @property
    def name(self) -> str:
        return "WebP" if self.format == "webp" else self.format.upper()


def read_image_header(data: bytes) -> ImageHeader | None:
    """None if the file does not begin like an image of a known format, or its header makes no sense."""
    for magic, read in _FORMATS:
        if data.startswith(magic):
            try:
                return read(data)
            except (struct.error, IndexError):
                return None
    return None


def _png(data: bytes) -> ImageHeader | None:
    if data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    at = 8
    for _ in range(_MOST_PARTS):
        if at + 12 > len(data):
            break
        (size,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        at += 12 + size
        if kind == b"IEND":
            return ImageHeader(format="png", width=width, height=height, truncated=at > len(data))
    return ImageHeader(format="png", width=width, height=height, truncated=True)


def _jpeg(data: bytes) -> ImageHeader | None:
    try:
        return _jpeg_segments(data)
    except (IndexError, struct.error):
        return ImageHeader(format="jpeg", width=0, height=0, truncated=True)


def _jpeg_segments(data: bytes) -> ImageHeader | None:
    at = 2
    size = (0, 0)
    for _ in range(_MOST_PARTS):
        if data[at] != 0xFF:
            return None
        if data[at + 1] == 0xFF:
            padding = _PADDING.match(data, at)
            at = padding.end() - 1 if padding is not None else at
        marker = data[at + 1]
        (length,) = struct.unpack_from(">H", data, at + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            size = (width, height)
        at += 2 + length
        if marker == 0xDA:  # the pixels; within them, the end marker cannot occur
            truncated = data.find(b"\xff\xd9", at) < 0
            return ImageHeader(format="jpeg", width=size[0], height=size[1], truncated=truncated)
    return None


def _gif(data: bytes) -> ImageHeader | None:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _gif_colours(flags)
    try:
        for _ in range(_MOST_PARTS):
            if data[at] == 0x2C:  # the first frame
                left, top, frame_width, frame_height, flags = struct.unpack_from("<HHHHB", data, at + 1)
                _gif_blocks_end(data, at + 11 + _gif_colours(flags))
                return ImageHeader(
                    format="gif", width=max(width, left + frame_width), height=max(height, top + frame_height)
                )
            if data[at] != 0x21:
                return None
            at = _gif_blocks_end(data, at + 2)
    except (IndexError, struct.error):
        return ImageHeader(format="gif", width=width, height=height, truncated=True)
    return None


def _gif_colours(flags: int) -> int:
    """The size of the table of colours that these flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_blocks_end(data: bytes, at: int) -> int:
    """The end of a row of blocks, each with its length in front, and an empty one at the end.

    Raises `IndexError` if the data end before, or there are more than `_MOST_BLOCKS`.
    """
    for _ in range(_MOST_BLOCKS):
        if not data[at]:
            return at + 1
        at += 1 + data[at]
    raise IndexError("too many blocks")


def _webp(data: bytes) -> ImageHeader | None:
    if data[8:12] != b"WEBP":
        return None
    (size,) = struct.unpack_from("<I", data, 4)
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return ImageHeader(format="webp", width=width, height=height, truncated=len(data) < size + 8)


def _bmp(data: bytes) -> ImageHeader | None:
    (start,) = struct.unpack_from("<I", data, 10)
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif header_bytes >= 40:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        return None
    width, height = abs(width), abs(height)
    row_bytes = (width * bits + 31) // 32 * 4
    truncated = len(data) <= start or (compression == 0 and len(data) < start + row_bytes * height)
    return ImageHeader(format="bmp", width=width, height=height, truncated=truncated)


_FORMATS: tuple[tuple[bytes, Callable[[bytes], ImageHeader | None]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8\xff", _jpeg),
    (b"GIF87a", _gif),
    (b"GIF89a", _gif),
    (b"RIFF", _webp),
    (b"BM", _bmp),
)
