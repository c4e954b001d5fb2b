"""The tags between which a model writes its thinking, and what becomes of earlier thinking in a conversation."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from corral.core.requests.messages import Message
from corral.core.values import Value

__all__ = ("KNOWN_THINK_TAGS", "ThinkTags", "think_tags_in", "without_old_thinking")


class ThinkTags(Value, frozen=True, kw_only=True):
    """The tags before and after the thinking in an answer.

    `label` is a word that follows the opening tag. `control` are control tokens that a parser needs to see besides the
    tags. With `framed`, such marks are around all parts of an answer: it is parsed even if nobody wants the thinking.
    `bridge` is what the model writes between the closing tag and the answer.
    """

    start: str
    end: str
    label: str = ""
    control: frozenset[str] = frozenset()
    framed: bool = False
    bridge: str = ""


KNOWN_THINK_TAGS = (
    ThinkTags(start="<think>", end="</think>"),
    ThinkTags(start="[THINK]", end="[/THINK]"),  # Magistral
    ThinkTags(start="<seed:think>", end="</seed:think>"),  # Seed-OSS
    ThinkTags(start="<|START_THINKING|>", end="<|END_THINKING|>"),  # Command R7B and Command A
    ThinkTags(start="<|channel>", end="<channel|>", label="thought"),  # Gemma 4
    ThinkTags(start="<reasoning>", end="</reasoning>"),
    ThinkTags(start="Here is my thought process:", end="Here is my response:"),  # Granite 3.2
)


def think_tags_in(template: str) -> ThinkTags | None:
    """The tags that a chat template mentions, None if it has none."""
    return next((tags for tags in KNOWN_THINK_TAGS if tags.start in template and tags.end in template), None)


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
