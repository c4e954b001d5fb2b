"""Reads tool calls that begin with a mark: visible text streams on, and each call comes out once it is complete.

Its arguments may come out before, while they are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence

import msgspec

from corral.adapters.answer_parsers.call_pieces import PieceSink
from corral.adapters.answer_parsers.call_source import (
    CallSource,
    CutOff,
    NoCall,
    Step,
    is_begun,
    kept_length,
    mark_pattern,
)
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta, ToolCallPiece

__all__ = ("CallReader", "Calls", "MarkedCallParser")

Calls = Generator[ToolCall | ValueError | None, None, None]
"""What reads the calls after a mark: yields each call, or why it is none, and None for more text."""

CallReader = Callable[[CallSource], Calls]
"""Reads from the first character of the mark, up to the text after the calls.

After a `ValueError` that it yields or raises, what was read since the last call stays text.
"""

_MOST_SPACE = 64
"""White space that is held back, since a call may follow: white space around calls is not shown."""

_MOST_WARNINGS = 16
"""Of one answer."""

_SPACE = re.compile(r"\s*")


class MarkedCallParser:
    """An `AnswerParser` for calls that begin with one of `marks`, or with one of `leading` if they begin the answer.

    With `in_pieces`, arguments that the reader gives to the source's sink are passed on at once.
    """

    def __init__(
        self, read: CallReader, marks: Sequence[str], *, leading: Sequence[str] = (), in_pieces: bool = False
    ) -> None:
        self._read = read
        self._marks = tuple(marks)
        self._leading = tuple(leading)
        self._source = CallSource(PieceSink() if in_pieces else None)
        self._begun = False  # pieces of a call have come out that is not complete
        self._begins = True  # nothing was said, and no call was made
        self._said = False
        self._called = False
        self._after_call = False
        self._parts: list[_Part] = []
        self._warned = 0
        self._steps = self._answer()

    def feed(self, delta: Delta) -> Sequence[Delta]:
        if not delta.text:
            return (delta,)
        self._source.give(delta.text)
        next(self._steps)
        made = self._taken_parts()
        if not made:
            return (msgspec.structs.replace(delta, text=""),)
        if made == [Delta(text=delta.text)]:
            return (delta,)
        first = msgspec.structs.replace(
            delta,
            text=made[0].text,
            tool_call_pieces=delta.tool_call_pieces + made[0].tool_call_pieces,
            tool_calls=delta.tool_calls + made[0].tool_calls,
            warnings=delta.warnings + made[0].warnings,
        )
        return (first, *made[1:])

    def finish(self) -> Sequence[Delta]:
        self._source.ended = True
        next(self._steps, None)
        return self._taken_parts()

    def _taken_parts(self) -> list[Delta]:
        parts, self._parts = self._parts, []
        return [
            Delta(
                text="".join(part.texts),
                tool_call_pieces=tuple(part.pieces),
                tool_calls=tuple(part.calls),
                warnings=tuple(part.warnings),
            )
            for part in parts
        ]

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer(self) -> Step[None]:
        while (yield from self._plain_text()):
            yield from self._calls()

    def _plain_text(self) -> Step[bool]:
        """Passes text on. Whether a call comes next; otherwise the answer has ended.

        The white space before the call is not read either.
        """
        source = self._source
        while True:
            found = self._next_mark()
            text = source.text[source.at : len(source.text) if found is None else found]
            held = kept_length(text, 0, len(text), self._marks) if self._marks and found is None else 0
            if self._begins and self._leading and found is None:
                held = max(held, self._held_for_leading(text))
            left_out = held if self._called and source.ended and found is None else 0
            if source.ended and found is None and not left_out:
                spoken = text
            else:
                spoken = _without_last_space(text, len(text) - held)
            if source.ended and found is None and self._after_call and not spoken.strip():
                spoken = ""
            source.at += len(spoken)
            self._say(spoken)
            if found is not None:
                return True
            if source.ended:
                if is_begun(text[len(text) - held :]):
                    self._warn(CutOff(), "out" if left_out else "in the text")
                return False
            yield None

    def _next_mark(self) -> int | None:
        source = self._source
        if self._begins and self._leading:
            begun = _SPACE.match(source.text, source.at)
            assert begun is not None
            if source.text.startswith(self._leading, begun.end()):
                return begun.end()
        found = mark_pattern(self._marks).search(source.text, source.at) if self._marks else None
        return None if found is None else found.start()

    def _held_for_leading(self, text: str) -> int:
        """How much of the beginning of an answer may still become a mark."""
        begun = text.lstrip()
        return len(begun) if any(mark.startswith(begun) for mark in self._leading) else 0

    def _calls(self) -> Step[None]:
        source = self._source
        source.record()
        try:
            yield from source.space()
            for call in self._read(source):
                self._pass_on()
                if call is None:
                    yield None
                elif isinstance(call, ToolCall):
                    self._call(call)
                    source.record()
                else:
                    self._refuse(call)
                    source.record()
        except ValueError as error:
            self._pass_on()
            self._refuse(error)
        source.stop()

    # ── what comes out ────────────────────────────────────────────────────────────────────────────────────────────

    def _say(self, text: str) -> None:
        if self._called and not self._said:
            text = text.lstrip()
        if not text:
            return
        if text.strip():
            self._begins = self._after_call = False
            self._said = True
        if not self._parts or self._parts[-1].calls or self._parts[-1].pieces:
            self._parts.append(_Part())
        self._parts[-1].texts.append(text)

    def _pass_on(self) -> None:
        """Passes on what has been read of the arguments of a call."""
        sink = self._source.sink
        if sink is not None and (piece := sink.taken()) is not None:
            self._begun = True
            self._add_piece(piece)

    def _add_piece(self, piece: ToolCallPiece) -> None:
        if not self._parts or self._parts[-1].calls:
            self._parts.append(_Part())
        self._parts[-1].pieces.append(piece)

    def _call(self, call: ToolCall) -> None:
        self._begins, self._called, self._after_call, self._begun = False, True, True, False
        self._source.called = True
        self._last_part().calls.append(call)

    def _refuse(self, error: ValueError) -> None:
        """What was read of a call is text, unless pieces of the call have come out, or the answer ended inside a call
        that follows another one.
        """
        self._begins = False
        if self._begun:
            self._begun = False
            self._add_piece(ToolCallPiece(problem=str(error)))
            if self._source.ended:  # what is left was held back as the beginning of a mark
                self._source.at = len(self._source.text)
            self._source.record()
            return
        left_out = self._called and isinstance(error, CutOff)
        if not left_out:
            self._say(self._source.taken())
        self._source.record()
        if not isinstance(error, NoCall):
            self._warn(error, "out" if left_out else "in the text")

    def _warn(self, error: ValueError, where: str) -> None:
        if self._warned < _MOST_WARNINGS:
            self._warned += 1
            self._last_part().warnings.append(f"a tool call was left {where}: {error}")

    def _last_part(self) -> _Part:
        if not self._parts:
            self._parts.append(_Part())
        return self._parts[-1]


class _Part:
    """A text, pieces of one call after it, and then calls, of which the first is the one in pieces."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.pieces: list[ToolCallPiece] = []
        self.calls: list[ToolCall] = []
        self.warnings: list[str] = []


def _without_last_space(text: str, length: int) -> str:
    """The first `length` characters of `text`, without as much of the white space at their end as is held back."""
    spoken = text[:length]
    stripped = spoken.rstrip()
    return stripped if length - len(stripped) <= _MOST_SPACE else spoken[: length - _MOST_SPACE]
