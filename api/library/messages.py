"""Turns conversations, as callers of the library write them, into messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from corral.core.errors import InvalidRequest, UnsupportedField
from corral.core.requests.messages import Message

__all__ = ("Messages", "to_messages")

Messages = str | Sequence[Message | Mapping[str, Any]]
"""A string is one message from the user."""


_ROLES = ("system", "developer", "user", "assistant", "tool", "control")
_EXAMPLE = 'such as {"role": "user", "content": "Hello"}'


def to_messages(messages: Messages, system: str | None = None) -> tuple[Message, ...]:
    """The messages, after `system` if given. Raises `InvalidRequest`, or `UnsupportedField` for an unknown key."""
    if isinstance(messages, str):
        spoken = [Message(role="user", content=messages)]
    elif isinstance(messages, Iterable) and not isinstance(messages, bytes | bytearray | Mapping):
        spoken = [_to_message(message) for message in messages]
    else:
        raise InvalidRequest(f"messages: expected a string or a list of messages, got {_shown(messages)}", _EXAMPLE)
    opening = [Message(role="system", content=system)] if system is not None else []
    return (*opening, *spoken)


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
        raise UnsupportedField(f"a message has no {unknown[0]!r}", f"it has {', '.join(Message.__struct_fields__)}")
    if fields.get("content") is None and not (fields.get("tool_calls") or fields.get("thinking")):
        raise InvalidRequest(f"invalid message {_shown(message)}: it has no content", _EXAMPLE)
    if fields.get("content", "") is None:
        del fields["content"]  # OpenAI's clients send this for a message that only calls tools
    try:
        decoded = msgspec.convert(fields, Message)
    except (msgspec.ValidationError, TypeError, ValueError) as fault:
        raise InvalidRequest(f"invalid message {_shown(message)}: {fault}", _EXAMPLE) from fault
    role = decoded.role.lower()
    if role not in _ROLES:
        raise InvalidRequest(f"unknown role {role[:60]!r} of a message", f"roles are {', '.join(_ROLES)}")
    return msgspec.structs.replace(decoded, role=role)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
