"""The tags between which a model writes its thinking, and what becomes of earlier thinking in a conversation."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from corral.core.requests.messages import Message
from corral.core.values import Value

__all__ = ("ThinkTags", "think_tags_in", "without_old_thinking")


class ThinkTags(Value, frozen=True, kw_only=True):
    """The tags before and after the thinking in an answer."""

    start: str
    end: str


_USUAL = ThinkTags(start="<think>", end="</think>")


def think_tags_in(template: str) -> ThinkTags | None:
    """The tags that a chat template mentions, None if it has none."""
    return _USUAL if _USUAL.start in template and _USUAL.end in template else None


def without_old_thinking(messages: Sequence[Message], tags: ThinkTags | None) -> list[Message]:
    """The messages, but answers before the last user message without their thinking: models are trained to see only
    that of the current turn. It is removed as a field, and from the beginning of the text if it stands between `tags`.
    """
    last = max((place for place, message in enumerate(messages) if message.role == "user"), default=0)
    return [
        _answer_alone(message, tags) if place < last and message.role == "assistant" else message
        for place, message in enumerate(messages)
    ]


def _answer_alone(message: Message, tags: ThinkTags | None) -> Message:
    content = message.content
    if tags is not None and content.lstrip().startswith(tags.start):
        _, closed, answer = content.partition(tags.end)
        content = answer.lstrip() if closed else content
    if message.thinking is None and content == message.content:
        return message
    return msgspec.structs.replace(message, thinking=None, content=content)
