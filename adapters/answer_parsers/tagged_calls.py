"""Separates tool calls from the text of an answer, in formats with a mark before each call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

import msgspec

from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta

__all__ = ("CallBody", "TaggedCallParser")

_MOST_SPACE = 64
"""How much whitespace before a call is dropped with it."""


class CallBody(Protocol):
    """The text after one mark, read once. Raises `ValueError` with the reason if it is not a call."""

    def feed(self, more: str) -> int | None:
        """The place in `more` where the call ends, None if it goes on."""
        ...

    def read(self, text: str) -> Sequence[ToolCall]:
        """The calls in the whole text, up to the place that `feed` has found."""
        ...


class _State(Enum):
    """Where in an answer the parser is."""

    TEXT = "in the visible text"
    BODY = "in a call"
    CLOSING = "after a call, before its closing mark"
    SPACE = "after a call, in whitespace"


class TaggedCallParser:
    """An `AnswerParser`. A call is complete with the last character of its body; a closing mark is then dropped.

    Whitespace around a call is dropped. A text that turns out not to be a call stays visible, with a warning.
    """

    def __init__(self, opening: str, closing: str, body: Callable[[], CallBody]) -> None:
        """`closing` may be empty. `body` is called at the beginning of each call."""
        self._opening = opening
        self._closing = closing
        self._new_body = body
        self._body = body()
        self._state = _State.TEXT
        self._held = ""
        self._begun: list[str] = []  # the text of a call so far: the whitespace and the mark, and then the body

    def feed(self, delta: Delta) -> Sequence[Delta]:
        if not delta.text:
            return (delta,)
        parts = self._read(delta.text)
        if parts and not parts[0].tool_calls and not parts[0].warnings:
            return (msgspec.structs.replace(delta, text=parts[0].text), *parts[1:])
        return (msgspec.structs.replace(delta, text=""), *parts)

    def finish(self) -> Sequence[Delta]:
        if self._state is _State.BODY:
            return (self._given_up("the answer ended inside it"),)
        held, self._held = self._held, ""
        return (Delta(text=held),) if held and self._state is _State.TEXT else ()

    def _read(self, more: str) -> list[Delta]:
        """What is known after `more`, in order."""
        parts: list[Delta] = []
        rest, self._held = self._held + more, ""
        while rest:
            if self._state is _State.TEXT:
                text, rest = self._text(rest)
                if text:
                    parts.append(Delta(text=text))
            elif self._state is _State.BODY:
                part, rest = self._call(rest)
                if part is not None:
                    parts.append(part)
            else:
                rest = self._after(rest)
        return parts

    def _text(self, rest: str) -> tuple[str, str]:
        """The visible text, and what follows the next mark. What may be the beginning of a mark is held back."""
        text, mark, after = rest.partition(self._opening)
        if mark:
            visible, space = _parted(text)
            self._state, self._body, self._begun = _State.BODY, self._new_body(), [space, mark]
            return visible, after
        may_begin = _shared(text, self._opening)
        visible, space = _parted(text[: len(text) - may_begin])
        self._held = space + text[len(text) - may_begin :]
        return visible, ""

    def _call(self, rest: str) -> tuple[Delta | None, str]:
        """The call, once it is complete, and what follows it."""
        try:
            end = self._body.feed(rest)
            if end is None:
                self._begun.append(rest)
                return None, ""
            calls = tuple(self._body.read("".join([*self._begun[2:], rest[:end]])))
        except ValueError as error:
            # Everything after the mark is ordinary text again, and may contain another mark.
            mark = "".join(self._begun[:2])
            rest = "".join(self._begun[2:]) + rest
            self._state, self._begun = _State.TEXT, []
            return Delta(text=mark, warnings=(_warning(str(error)),)), rest
        self._state, self._begun = _State.CLOSING if self._closing else _State.SPACE, []
        return Delta(tool_calls=calls), rest[end:]

    def _after(self, rest: str) -> str:
        rest = rest.lstrip()
        if self._state is _State.CLOSING:
            if rest.startswith(self._closing):
                self._state = _State.SPACE
                return rest[len(self._closing) :]
            if self._closing.startswith(rest):  # empty, or the beginning of the mark
                self._held = rest
                return ""
        if rest:
            self._state = _State.TEXT
        return rest

    def _given_up(self, reason: str) -> Delta:
        text, self._begun = "".join(self._begun), []
        return Delta(text=text, warnings=(_warning(reason),))


def _warning(reason: str) -> str:
    return f"a tool call was left in the text: {reason}"


def _parted(text: str) -> tuple[str, str]:
    """The text without its last whitespace, and that."""
    length = min(len(text) - len(text.rstrip()), _MOST_SPACE)
    return text[: len(text) - length], text[len(text) - length :]


def _shared(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    return next(
        (length for length in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-length:])), 0
    )
