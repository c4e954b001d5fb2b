"""Turns conversations and images, as callers of the library write them, into what requests have."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from corral.core.errors import InvalidRequest
from corral.core.regular_files import read_regular
from corral.core.requests.media import MOST_MEDIA_BYTES
from corral.core.requests.messages import Message

__all__ = ("Images", "Messages", "images_read", "spoken")

Messages = str | Sequence[Message | Mapping[str, Any]]
"""A string is one message from the user. The `images` of a message are `Images`."""

Images = Sequence[bytes | str | os.PathLike[str]]
"""Contents of files, the same as base64, or paths; a string is never a path."""


_ROLES = ("system", "developer", "user", "assistant", "tool", "control")
_IMAGE_KINDS = "an image is bytes, base64 in a string, or a Path"
_EXAMPLE = 'such as {"role": "user", "content": "Hello"}'


def _to_messages(messages: Messages, system: str | None = None) -> tuple[Message, ...]:
    if isinstance(messages, str):
        spoken = [Message(role="user", content=messages)]
    elif isinstance(messages, Iterable) and not isinstance(messages, bytes | bytearray | Mapping):
        spoken = [_to_message(message) for message in messages]
    else:
        raise InvalidRequest(f"messages: expected a string or a list of messages, got {_shown(messages)}", _EXAMPLE)
    opening = [Message(role="system", content=system)] if system is not None else []
    return (*opening, *spoken)


async def images_read(images: Images) -> tuple[bytes, ...]:
    """Files are read in a thread. Raises `InvalidRequest` for what is neither, and for a file that cannot be read."""
    if isinstance(images, str | bytes) or not isinstance(images, Sequence):
        raise InvalidRequest(f"images: expected a list, got {type(images).__name__}", "put it in a list")
    contents = [await asyncio.to_thread(_read, one) if isinstance(one, os.PathLike) else one for one in images]
    try:
        return msgspec.convert(contents, tuple[bytes, ...])
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"images: {error}", _IMAGE_KINDS) from error


async def spoken(messages: Messages, system: str | None = None) -> tuple[Message, ...]:
    """The messages, after `system` if given, with the contents of images in place of their paths.

    Raises `InvalidRequest`, also for an unknown key.
    """
    if isinstance(messages, list | tuple):
        messages = [await _with_contents(one) if _has_paths(one) else one for one in messages]
    return _to_messages(messages, system)


def _to_message(message: Message | Mapping[str, Any]) -> Message:
    if isinstance(message, Message):
        fields = msgspec.structs.asdict(message)  # its field types have not been checked yet
    elif isinstance(message, Mapping):
        fields = dict(message)
    else:
        raise InvalidRequest(
            f"invalid message {_shown(message)}: a message is a dict with role and content, or a Message", _EXAMPLE
        )
    unknown = [key for key in fields if key not in Message.__struct_fields__]
    if unknown:
        raise InvalidRequest(f"a message has no {unknown[0]!r}", f"it has {', '.join(Message.__struct_fields__)}")
    if fields.get("content") is None and not (fields.get("tool_calls") or fields.get("thinking")):
        raise InvalidRequest(f"invalid message {_shown(message)}: it has no content", _EXAMPLE)
    if fields.get("content", "") is None:
        del fields["content"]  # OpenAI's clients send this for a message that only calls tools
    try:
        decoded = msgspec.convert(fields, Message)
    except (msgspec.ValidationError, TypeError, ValueError) as fault:
        remedy = _IMAGE_KINDS if "$.images" in str(fault) else _EXAMPLE
        raise InvalidRequest(f"invalid message {_shown(message)}: {fault}", remedy) from fault
    role = decoded.role.lower()
    if role not in _ROLES:
        raise InvalidRequest(f"unknown role {role[:60]!r} of a message", f"roles are {', '.join(_ROLES)}")
    return msgspec.structs.replace(decoded, role=role)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


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
