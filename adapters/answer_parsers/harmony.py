"""Reads answers in OpenAI's harmony format: channels for thinking, for the answer, and for tool calls.

Format: https://github.com/openai/harmony. Messages that are calls are passed on as they are: `HarmonyCalls` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from corral.adapters.answer_parsers.call_source import CallSource, Step, kept_length, mark_pattern
from corral.core.models.model import TemplateText
from corral.core.ports.chat import RenderedChat
from corral.core.requests.outputs import Delta
from corral.core.requests.prompts import prompt_text
from corral.core.requests.requests import ChatRequest
from corral.core.requests.think_tags import ThinkTags

__all__ = ("HarmonyParser", "HarmonyThinking")

_START, _CHANNEL, _MESSAGE, _END = "<|start|>", "<|channel|>", "<|message|>", "<|end|>"
_HEADERS = (_CHANNEL, _START)
_ENDS = (_END, "<|return|>", "<|call|>")
_MARKS = (*_ENDS, *_HEADERS)
_BEGINNINGS = (*_HEADERS, " to=", "to=")
_LONGEST_BEGINNING = max(map(len, _BEGINNINGS))

_MOST_HEADER_CHARS = 512
_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=\S")


class HarmonyThinking:
    """An `AnswerParserFactory`. Without its parsers, the marks of the channels would be part of the answer."""

    def think_tags(self, template: TemplateText) -> ThinkTags | None:
        text = template.text
        if not all(mark in text for mark in (_START, _CHANNEL, _MESSAGE, _END)):
            return None
        control = frozenset({_START, _CHANNEL, _MESSAGE, "<|constrain|>", "<|call|>"})
        bridge = f"{_START}assistant{_CHANNEL}final{_MESSAGE}"
        return ThinkTags(start=f"{_CHANNEL}analysis{_MESSAGE}", end=_END, control=control, framed=True, bridge=bridge)

    def open(self, request: ChatRequest, rendered: RenderedChat) -> HarmonyParser:
        """If the prompt ends inside a message, the answer goes on with it."""
        begun = prompt_text(rendered.prompt[-1:]).rpartition(_START)[2]
        header, opened, body = begun.rpartition(_MESSAGE)
        return HarmonyParser(header if opened and _END not in body else None)


class HarmonyParser:
    """An `AnswerParser`. An answer that begins with no mark is one as it is."""

    def __init__(self, header: str | None = None) -> None:
        self._source = CallSource()
        self._made: list[Delta] = []
        self._steps = self._messages(header)

    def feed(self, delta: Delta) -> Sequence[Delta]:
        if not delta.text:
            return (delta,)
        self._source.give(delta.text)
        next(self._steps)
        made, self._made = self._made or [Delta()], []
        first = msgspec.structs.replace(delta, thinking=delta.thinking + made[0].thinking, text=made[0].text)
        return (first, *made[1:])

    def finish(self) -> Sequence[Delta]:
        self._source.ended = True
        next(self._steps, None)
        return self._made

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _messages(self, header: str | None) -> Step[None]:
        source = self._source
        while True:
            if header is None:
                begins = yield from self._begins()
                header = (yield from self._header()) if begins else f"{_CHANNEL}final"
            yield from self._body(header)
            if source.ended and source.at == len(source.text):
                return
            header = None

    def _begins(self) -> Step[bool]:
        """Whether a message begins here, and not a bare text."""
        while True:
            ahead = self._source.text[self._source.at : self._source.at + _LONGEST_BEGINNING]
            if ahead.startswith(_BEGINNINGS):
                return True
            if self._source.ended or not any(mark.startswith(ahead) for mark in _BEGINNINGS):
                return False
            yield None

    def _header(self) -> Step[str]:
        """Reads up to the text of the next message. What comes between messages is dropped."""
        source, pieces, length = self._source, [], 0
        while True:
            found = mark_pattern((_MESSAGE,)).search(source.text, source.at)
            end = len(source.text) if found is None else found.start()
            if found is None and not source.ended:
                end -= kept_length(source.text, source.at, end, (_MESSAGE,))
            end = min(end, source.at + _MOST_HEADER_CHARS - length)
            pieces.append(source.text[source.at : end])
            length += len(pieces[-1])
            source.at = end
            if found is not None and end == found.start():
                source.at = found.end()
                return "".join(pieces).removeprefix(_START).removeprefix("assistant")
            if source.ended or length == _MOST_HEADER_CHARS:
                self._made.append(Delta(text="".join(pieces)))
                return f"{_CHANNEL}final"
            yield None

    def _body(self, header: str) -> Step[None]:
        """Passes the text of a message on, and reads the mark after it."""
        source = self._source
        channel = _CHANNEL_NAME.search(header)
        is_call = _RECIPIENT.search(header) is not None
        is_thinking = not is_call and channel is not None and channel[1] == "analysis"
        if is_call:
            self._made.append(Delta(text=header + _MESSAGE))
        while True:
            found = mark_pattern(_MARKS).search(source.text, source.at)
            end = len(source.text) if found is None else found.start()
            if found is None and not source.ended:
                end -= kept_length(source.text, source.at, end, _MARKS)
            if end > source.at:
                text = source.text[source.at : end]
                self._made.append(Delta(thinking=text) if is_thinking else Delta(text=text))
            source.at = end
            if found is not None:
                if found[0] in _ENDS:
                    source.at = found.end()
                    if is_call:
                        self._made.append(Delta(text=found[0]))
                return
            if source.ended:
                return
            yield None
