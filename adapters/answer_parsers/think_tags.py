"""Separates thinking, which is between the tags of the model's chat format, from the rest of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import msgspec

from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.outputs import Delta
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import ThinkTags, think_tags_in

__all__ = ("ThinkTagParser", "ThinkTagParsers")


class _State(Enum):
    """Where in an answer the parser is. Whitespace after either tag is dropped."""

    BEGINNING = "before the first character that is not whitespace"
    OPENED = "after the opening tag"
    THINKING = "between the tags"
    CLOSED = "after the closing tag"
    ANSWERING = "in the visible text"


class ThinkTagParsers:
    """Opens a `ThinkTagParser` for each answer. An `AnswerParserFactory`."""

    def think_tags(self, template: TemplateText) -> ThinkTags | None:
        return think_tags_in(template.text)

    def open(self, request: ChatRequest, rendered: RenderedChat) -> ThinkTagParser:
        if rendered.think is None:
            raise ValueError("the chat format names no think tags")
        return ThinkTagParser(rendered.think, opened=rendered.opens_thinking)


class ThinkTagParser:
    """An `AnswerParser`. An answer has thinking if it begins with the opening tag, or if the prompt `opened` it."""

    def __init__(self, tags: ThinkTags, *, opened: bool = False) -> None:
        self._tags = tags
        self._state = _State.OPENED if opened else _State.BEGINNING
        self._labelled = bool(tags.label)  # the label was not read yet
        self._held = ""

    def feed(self, delta: Delta) -> Sequence[Delta]:
        if self._state is _State.ANSWERING:
            return (delta,)
        thinking, text = self._read(delta.text)
        return (msgspec.structs.replace(delta, thinking=delta.thinking + thinking, text=text),)

    def finish(self) -> Sequence[Delta]:
        held, self._held = self._held, ""
        if not held or self._state is _State.CLOSED:
            return ()
        return (Delta(thinking=held) if self._state in (_State.OPENED, _State.THINKING) else Delta(text=held),)

    def _read(self, more: str) -> tuple[str, str]:
        """Splits what is known after `more` into thinking and visible text."""
        rest, self._held, thinking = self._held + more, "", ""
        while True:
            if self._state is _State.BEGINNING:
                begun = rest.lstrip()
                if begun.startswith(self._tags.start):
                    self._state, rest = _State.OPENED, begun[len(self._tags.start) :]
                elif self._tags.start.startswith(begun):  # empty, or the beginning of the tag
                    self._held = rest
                    return "", ""
                else:
                    self._state = _State.ANSWERING
            elif self._state is _State.THINKING:
                inside, tag, after = rest.partition(self._tags.end)
                if not tag:
                    kept = _shared(inside, self._tags.end)
                    self._held = inside[len(inside) - kept :]
                    return inside[: len(inside) - kept], ""
                self._state, thinking, rest = _State.CLOSED, inside, after
            elif self._state is _State.ANSWERING:
                return thinking, rest
            else:
                rest = rest.lstrip()
                if self._state is _State.OPENED and self._labelled:
                    if len(rest) < len(label := self._tags.label) and label.startswith(rest):
                        self._held = rest
                        return thinking, ""
                    rest, self._labelled = rest.removeprefix(label).lstrip(), False
                if not rest:
                    return thinking, ""
                self._state = _State.THINKING if self._state is _State.OPENED else _State.ANSWERING


def _shared(text: str, tag: str) -> int:
    """How many characters at the end of `text` may be the beginning of `tag`."""
    return next((length for length in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-length:])), 0)
