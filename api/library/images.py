"""Reads the images that callers of the library name by their paths."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from corral.api.library.messages import Messages
from corral.core.errors import InvalidRequest
from corral.core.regular_files import read_regular
from corral.core.requests.media import MOST_MEDIA_BYTES

__all__ = ("Images", "images_read", "with_images_read")

Images = Sequence[bytes | str | os.PathLike[str]]
"""Contents of files, the same as base64, or paths; a string is never a path."""


async def images_read(images: Images) -> tuple[bytes, ...]:
    """Files are read in a thread. Raises `InvalidRequest` for what is neither, and for a file that cannot be read."""
    if isinstance(images, str | bytes) or not isinstance(images, Sequence):
        raise InvalidRequest(f"images: expected a list, got {type(images).__name__}", "put it in a list")
    contents = [await asyncio.to_thread(_read, one) if isinstance(one, os.PathLike) else one for one in images]
    try:
        return msgspec.convert(contents, tuple[bytes, ...])
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"images: {error}", "an image is bytes, base64 in a string, or a Path") from error


async def with_images_read(messages: Messages) -> Messages:
    """The messages with the contents of their images in place of paths."""
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        return messages
    return [await _with_contents(one) if _has_paths(one) else one for one in messages]


def _has_paths(message: Any) -> bool:
    images = message.get("images") if isinstance(message, Mapping) else None
    return isinstance(images, list | tuple) and any(isinstance(image, os.PathLike) for image in images)


async def _with_contents(message: Any) -> Any:
    return {**message, "images": await images_read(message["images"])}


def _read(path: os.PathLike[str]) -> bytes:
    try:
        return read_regular(Path(path).expanduser(), MOST_MEDIA_BYTES)
    except OSError as error:
        raise InvalidRequest(f"images: {os.fspath(path)}: {error.strerror or error}", "check the path") from error
