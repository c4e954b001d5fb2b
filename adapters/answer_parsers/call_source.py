"""Text that arrives in pieces, read step by step: a reader stops where text is missing, and goes on when it comes.

Readers are generators that yield None for more text. Whatever they read is looked at once, so that the work grows with
the length of the text alone, and they see the same text however it is divided.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import Any, TypeVar

from corral.adapters.answer_parsers.call_pieces import PieceSink
from corral.adapters.answer_parsers.json_values import decoded
from corral.adapters.answer_parsers.strict_json import StrictJson

__all__ = ("CallSource", "CutOff", "NoCall", "Step", "is_begun", "kept_length", "mark_pattern")

T = TypeVar("T")

Step = Generator[None, None, T]
"""A step of reading, for ``yield from``."""

_MOST_CHARS = 256 << 10
"""In one call. A longer one stays text."""

_MOST_LEVELS = 64
"""Of nested values in the arguments of a call."""

_LEAST_BEGUN = 3
"""Characters of a mark or a name at the end of an answer that are hardly there by chance."""

_SPACE = re.compile(r"\s*")
_OUTSIDE_STRINGS = re.compile(r"[\s0-9A-Za-z:,.+\-]*")
_INSIDE_STRING = re.compile(r'[^"\\]*')


def is_begun(text: str) -> bool:
    """Whether a mark's beginning is long enough to tell it from other text. Backticks alone end a block of code."""
    return len(text) >= _LEAST_BEGUN and text.strip("`") != ""


class CutOff(ValueError):
    """The answer ended inside a call."""

    def __init__(self) -> None:
        super().__init__("the answer ended inside it")


class NoCall(ValueError):
    """What might have been a call is ordinary text, so that nobody needs to be warned."""


class CallSource:
    """What is left of an answer. It remembers what a reader has read since `record`.

    `sink` is where the arguments of calls go while they are read; None if nobody wants them in pieces.
    """

    def __init__(self, sink: PieceSink | None = None) -> None:
        self.sink = sink
        self.text = ""
        self.at = 0
        self.ended = False
        self.called = False
        """Whether a call has been read."""
        self._end = 0
        self._recorded: list[str] = []
        self._recorded_chars = 0
        self._start: int | None = None

    # ── for the one who has the text ──────────────────────────────────────────────────────────────────────────────

    def give(self, text: str) -> None:
        """More of the answer."""
        if self._start is not None:
            read = self.text[self._start : self.at]
            self._recorded.append(read)
            self._recorded_chars += len(read)
            self._start = 0
        self.text = self.text[self.at :] + text
        self.at = 0
        self._set_end()

    def record(self) -> None:
        """From here on, what is read can be had back, and is limited in length."""
        self._start = self.at
        self._recorded, self._recorded_chars = [], 0
        self._set_end()

    def taken(self) -> str:
        """What was read since `record`."""
        return "".join((*self._recorded, self.text[self._start : self.at]))

    def stop(self) -> None:
        """Ends the recording. White space that was read last is unread again."""
        taken = self.taken()
        space = len(taken) - len(taken.rstrip())
        if space > self.at:
            self.text, self.at = taken[len(taken) - space :] + self.text[self.at :], 0
        else:
            self.at -= space
        self._start, self._recorded, self._recorded_chars = None, [], 0
        self._set_end()

    def _set_end(self) -> None:
        self._end = len(self.text)
        if self._start is not None:
            self._end = min(self._end, self._start + _MOST_CHARS - self._recorded_chars)

    # ── for readers ───────────────────────────────────────────────────────────────────────────────────────────────

    def _missing(self) -> Step[None]:
        """Waits for more text. Raises `CutOff` if there is none."""
        if self.ended and self._end == len(self.text):
            raise CutOff
        if self._end < len(self.text):
            raise ValueError(f"it is longer than {_MOST_CHARS} characters")
        yield None

    def space(self) -> Step[None]:
        """Reads white space, if there is any."""
        while True:
            self.at = _end_of(_SPACE, self.text, self.at, self._end)
            if self.at < self._end or self.ended:
                return
            yield from self._missing()

    def peek(self) -> Step[str]:
        """The next character, which is not read; empty at the end of the answer."""
        while self.at == self._end and not self.ended:
            yield from self._missing()
        return self.text[self.at : min(self.at + 1, self._end)]

    def accept(self, *marks: str) -> Step[str]:
        """Reads the first of `marks` that comes next. Returns it, or nothing if none of them does.

        If the answer ends inside a mark after a call, what there is of it is read as well.
        """
        longest = max(map(len, marks))
        while True:
            ahead = self.text[self.at : min(self.at + longest, self._end)]
            for mark in marks:
                if ahead.startswith(mark):
                    self.at += len(mark)
                    return mark
                if mark.startswith(ahead):
                    if not self.ended:
                        break
                    if self.called and self._end == len(self.text):
                        self.at = self._end
                        return ""
            else:
                return ""
            yield from self._missing()

    def broken_off(self, *marks: str) -> bool:
        """Whether the answer has ended inside one of `marks`, after its first characters."""
        left = self.text[self.at : self._end]
        return self.ended and is_begun(left) and any(mark.startswith(left) for mark in marks)

    def expect(self, *marks: str) -> Step[str]:
        """Like `accept`. Raises `ValueError` if none of the marks comes next."""
        mark = yield from self.accept(*marks)
        if not mark:
            following = yield from self.peek()
            if not following:
                raise CutOff
            raise ValueError(f"{marks[0]!r} was expected, not {following!r}")
        return mark

    def until(self, *marks: str, heard: Callable[[str], None] | None = None) -> Step[tuple[str, str]]:
        """Reads the text up to the first of `marks`, and the mark. Raises `CutOff` if none comes. `heard` gets the text
        while it is read.
        """
        pattern, pieces = mark_pattern(marks), []
        while True:
            found = pattern.search(self.text, self.at, self._end)
            if found is not None:
                pieces.append(self.text[self.at : found.start()])
                self.at = found.end()
                if heard is not None and pieces[-1]:
                    heard(pieces[-1])
                return "".join(pieces), found[0]
            kept = 0 if self.ended else kept_length(self.text, self.at, self._end, marks)
            pieces.append(self.text[self.at : self._end - kept])
            self.at = self._end - kept
            if heard is not None and pieces[-1] and not self.ended:  # it might be the beginning of a mark
                heard(pieces[-1])
            yield from self._missing()

    def run(self, pattern: re.Pattern[str], heard: Callable[[str], None] | None = None) -> Step[str]:
        """Reads as many characters as `pattern`, a repeated class of characters, matches. `heard` gets them at once."""
        pieces = []
        while True:
            end = _end_of(pattern, self.text, self.at, self._end)
            pieces.append(self.text[self.at : end])
            self.at = end
            if heard is not None and pieces[-1]:
                heard(pieces[-1])
            if end < self._end or self.ended:
                return "".join(pieces)
            yield from self._missing()

    def json(self, opened: str = "", watch: StrictJson | None = None) -> Step[Any]:
        """Reads an object or a list in JSON, and returns its value. Raises `ValueError` if it is none.

        `opened` is the beginning of an object that was read already: a brace, and perhaps a key. `watch` follows it.
        """
        yield from self.space()
        if not opened and (first := (yield from self.peek())) not in ("{", "["):
            raise ValueError("it has no JSON object") if first else CutOff
        pieces, depth = [opened], 1 if opened else 0
        if opened and watch is not None:
            watch.begun(opened)
        while True:
            pieces.append((yield from self.run(_OUTSIDE_STRINGS)))
            char = yield from self._one()
            if watch is not None:
                watch.between(pieces[-1], char)
            pieces.append(char)
            if char == '"':
                yield from self._string(pieces, watch)
            elif char in "{[":
                depth += 1
                if depth > _MOST_LEVELS:
                    raise ValueError(f"its values are nested more than {_MOST_LEVELS} levels deep")
            else:
                depth -= 1
                if depth == 0:
                    break
        try:
            return decoded("".join(pieces))
        except ValueError as error:
            raise ValueError(f"it is not valid JSON: {error}") from None

    def _one(self) -> Step[str]:
        """Reads a character that separates JSON values. Others are left alone."""
        char = yield from self.peek()
        if not char:
            raise CutOff
        if char not in '"{[]}':
            raise ValueError(f"it is not valid JSON: unexpected {char!r}")
        self.at += 1
        return char

    def _string(self, pieces: list[str], watch: StrictJson | None) -> Step[None]:
        """Reads the rest of a JSON string after its opening quote."""
        heard = None if watch is None else watch.inside
        while True:
            pieces.append((yield from self.run(_INSIDE_STRING, heard)))
            char = yield from self.character()
            pieces.append(char)
            if char == '"':
                if watch is not None:
                    watch.ended()
                return
            pieces.append((yield from self.character()))
            if heard is not None:
                heard(char + pieces[-1])

    def character(self) -> Step[str]:
        """Reads a character, whatever it is. Raises `CutOff` at the end of the answer."""
        char = yield from self.peek()
        if not char:
            raise CutOff
        self.at += 1
        return char


def _end_of(pattern: re.Pattern[str], text: str, at: int, end: int) -> int:
    matched = pattern.match(text, at, end)
    return at if matched is None else matched.end()


@lru_cache(64)
def mark_pattern(marks: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the first of several marks."""
    return re.compile("|".join(map(re.escape, marks)))


def kept_length(text: str, at: int, end: int, marks: tuple[str, ...]) -> int:
    """How many characters at the end of the text between `at` and `end` may be the beginning of one of `marks`."""
    longest = min(max(map(len, marks)) - 1, end - at)
    for length in range(longest, 0, -1):
        tail = text[end - length : end]
        if any(mark.startswith(tail) for mark in marks):
            return length
    return 0
