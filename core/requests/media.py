"""Recognises the image and sound files that users send, and refuses bad ones before anything decodes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from corral.core.errors import InvalidRequest
from corral.core.requests.image_headers import ImageHeader, read_image_header

__all__ = ("MOST_MEDIA_BYTES", "MOST_PIXELS", "MediaKind", "check_media", "features_for", "media_kind", "media_type")

MediaKind = Literal["image", "audio"]

MOST_MEDIA_BYTES = 64 * 1024 * 1024
"""The largest file; one in a request body is limited by the body too."""
MOST_PIXELS = 64_000_000
"""Decoded, they take 192 MB. Larger than any photo of a telephone."""
_MOST_UNEVEN = 200
"""How much longer one side may be than the other. Image encoders scale both, and cannot scale one to nothing."""


def media_kind(data: bytes) -> MediaKind:
    """Sound if the file is WAV or MP3, otherwise an image, whether or not it is one."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "audio"
    if data[:3] == b"ID3" or (data[:1] == b"\xff" and data[1:2] >= b"\xe0"):
        return "audio"
    return "image"


def features_for(files: Sequence[bytes]) -> frozenset[str]:
    """The features of engines that these files need: ``images``, ``audio``."""
    return frozenset({"audio" if media_kind(data) == "audio" else "images" for data in files})


def media_type(data: bytes) -> str:
    """The file's MIME type; ``application/octet-stream`` for images of unknown formats."""
    if media_kind(data) == "audio":
        return "audio/wav" if data[:4] == b"RIFF" else "audio/mpeg"
    header = read_image_header(data)
    return "application/octet-stream" if header is None else f"image/{header.format}"


def check_media(files: Sequence[bytes]) -> None:
    """Raise `InvalidRequest`, which names the file by its number, for what is certainly no usable image or sound.

    Only headers and structure are read, never the pixels.
    """
    for number, data in enumerate(files, 1):
        if len(data) > MOST_MEDIA_BYTES:
            raise InvalidRequest(
                f"image {number} has {len(data)} bytes; at most {MOST_MEDIA_BYTES} are accepted", "scale it down"
            )
        if media_kind(data) == "image":
            _check_image(number, read_image_header(data))


def _check_image(number: int, header: ImageHeader | None) -> None:
    if header is None:
        raise InvalidRequest(f"image {number} is not an image", "send PNG, JPEG, WebP, GIF or BMP")
    if header.truncated:
        raise InvalidRequest(f"image {number} is truncated: its {header.name} file ends too early", "send all of it")
    if not header.width or not header.height:
        raise InvalidRequest(f"image {number} has no pixels: {header.width} x {header.height}")
    size = f"image {number} has {header.width} x {header.height} pixels"
    if header.width * header.height > MOST_PIXELS:
        raise InvalidRequest(f"{size}; at most {MOST_PIXELS} are accepted", "scale it down")
    if max(header.width, header.height) > _MOST_UNEVEN * min(header.width, header.height):
        raise InvalidRequest(f"{size}; one side may be at most {_MOST_UNEVEN} times as long as the other", "crop it")
