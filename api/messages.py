"""Conversations as callers of the library write them, made into messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from corral.core.errors import InvalidRequest, UnsupportedField
from corral.core.messages import Message

__all__ = ("Messages", "to_messages")

Messages = str | Sequence[Message | Mapping[str, Any]]
"""A text is one message of the user's."""


def to_messages(messages: Messages, system: str | None = None) -> tuple[Message, ...]:
    """`system` goes first. Raises `InvalidRequest`, and `UnsupportedField` for a key that no message has."""
    spoken = [Message(role="user", content=messages)] if isinstance(messages, str) else map(_to_message, messages)
    opening = [Message(role="system", content=system)] if system is not None else []
    return (*opening, *spoken)


def _to_message(message: Message | Mapping[str, Any]) -> Message:
    if isinstance(message, Message):
        return message
    try:
        fields = dict(message)
        unknown = [key for key in fields if key not in Message.__struct_fields__]
        if unknown:
            raise UnsupportedField(f"a message has no {unknown[0]!r}", f"it has {', '.join(Message.__struct_fields__)}")
        decoded = msgspec.convert(fields, Message)
    except (msgspec.ValidationError, TypeError, ValueError) as fault:
        if isinstance(fault, InvalidRequest):
            raise
        raise InvalidRequest(f"invalid message {message!r:.100}: {fault}") from fault
    return msgspec.structs.replace(decoded, role=decoded.role.lower())
