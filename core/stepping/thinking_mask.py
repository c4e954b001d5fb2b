"""The mask of an answer that may begin with thinking: it ends the thinking in time, and then a constraint begins."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from enum import Enum
from typing import Protocol

from corral.core.errors import InvalidRequest
from corral.core.ports.tokens import RequestMask, Vocabulary
from corral.core.requests.requests import Thinking
from corral.core.stepping.text_watch import TextWatch

__all__ = ("AnswerMask", "Spelling", "ThinkingMask")

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")

_MOST_SPACES = 4
"""Most tokens of whitespace between the thinking and a constrained answer: usually one, of two line breaks."""


class Spelling:
    """The tokens that can spell a given text, and those that go on after it. Reads the whole vocabulary once."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        """Raises `InvalidRequest` for an empty text, and for one that the vocabulary cannot spell."""
        if not text:
            raise InvalidRequest("thinking: a tag is empty", "name the tags around the model's thinking")
        data = text.encode()
        self.pieces = vocabulary.pieces
        self._ids: dict[bytes, list[int]] = {}
        beyond: dict[bytes, list[int]] = {}
        for token_id, piece in enumerate(vocabulary.pieces):
            if piece and piece in data:
                self._ids.setdefault(piece, []).append(token_id)
            elif data[-1] in piece:
                for start in range(len(data)):
                    if piece.startswith(data[start:]) and piece[len(data) - start :].strip():
                        beyond.setdefault(data[start:], []).append(token_id)
        if not all(self._next(data[start:]) for start in range(len(data))):
            raise InvalidRequest(f"thinking: this model has no tokens for {text!r}")
        self._spaces = self._bits(id for id, piece in enumerate(vocabulary.pieces) if piece and not piece.strip())
        self._ends = self._bits(vocabulary.ends)
        self._beyond = {rest: self._bits(ids) for rest, ids in beyond.items()}

    def next(self, rest: bytes) -> int:
        """The bits of the longest tokens at the beginning of `rest`."""
        return self._bits(self._next(rest))

    @property
    def spaces(self) -> int:
        """The bits of all tokens that are nothing but whitespace."""
        return self._spaces

    def inside(self, rest: bytes) -> int:
        """The bits of all tokens that neither end the answer, nor complete `rest` and then go on with other text."""
        every = (1 << len(self.pieces)) - 1
        return every & ~(self._ends | self._beyond.get(rest, 0))

    def _next(self, rest: bytes) -> list[int]:
        for length in range(len(rest), 0, -1):
            if ids := self._ids.get(rest[:length]):
                return ids
        return []

    def _bits(self, ids: Iterable[int]) -> int:
        bits = bytearray((len(self.pieces) + 7) // 8)
        for token_id in ids:
            bits[token_id >> 3] |= 1 << (token_id & 7)
        return int.from_bytes(bits, "little")


class AnswerMask(RequestMask, Protocol):
    """The mask of what follows the thinking."""

    def spend(self) -> None:
        """A token was used for something other than the visible text."""
        ...


class _State(Enum):
    BEGINNING = "the answer may still begin with the opening tag"
    OPENING = "within the opening tag"
    THINKING = "between the tags"
    BETWEEN = "after the closing tag, before the first visible character"
    ANSWERING = "in the visible text"


class ThinkingMask:
    """A `RequestMask`. Whether the model thinks is up to the model, unless the prompt has opened the thinking.

    After `max_tokens` tokens of thinking, only the closing tag is allowed: never in the middle of a character, and what
    the model has already written of it is not repeated. With an `answer`, the mask of what follows the thinking, an
    answer does not end while it thinks.
    """

    def __init__(
        self, thinking: Thinking, start: Spelling | None, end: Spelling, answer: AnswerMask | None = None
    ) -> None:
        """`start` is the spelling of the opening tag; None if the prompt has opened the thinking."""
        self._left = thinking.max_tokens
        self._opening, self._closing, self._answer = start, end, answer
        self._start, self._end = TextWatch(thinking.start), TextWatch(thinking.end)
        self._tag = thinking.start.encode()
        self._state = _State.THINKING if start is None else _State.BEGINNING
        self._said = b""
        self._spaces = 0
        self._wanted = 0
        self._characters = _Utf8Decoder(errors="replace")

    @property
    def ignored(self) -> tuple[str, ...]:
        return () if self._answer is None else self._answer.ignored

    @property
    def warnings(self) -> tuple[str, ...]:
        return () if self._answer is None else self._answer.warnings

    def limit(self, tokens: int) -> None:
        if self._answer is not None:
            self._answer.limit(tokens)

    def allowed(self) -> bytes | None:
        state, answer = self._state, self._answer
        if state is _State.THINKING:
            return self._thinking_allowed()
        if answer is None:
            return None
        if state is _State.OPENING:
            assert self._opening is not None
            return self._bytes(self._opening.next(self._start.missing))
        bits = answer.allowed()
        if state is _State.ANSWERING or bits is None:
            return bits
        self._wanted = int.from_bytes(bits, "little")
        if state is _State.BETWEEN:
            return self._bytes(self._wanted | self._closing.spaces)
        assert self._opening is not None
        return self._bytes(self._wanted | self._opening.next(self._tag))

    def accept(self, token_id: int) -> None:
        state, piece = self._state, self._closing.pieces[token_id]
        if state is _State.THINKING:
            self._characters.decode(piece)
            self._left = None if self._left is None else self._left - 1
            if self._end.push(piece):
                self._state = _State.BETWEEN
        elif state is _State.BEGINNING and self._answer is None:
            self._begin(piece)
        elif state is _State.OPENING or (state is _State.BEGINNING and not self._wanted >> token_id & 1):
            self._state = _State.THINKING if self._start.push(piece) else _State.OPENING
        elif state is _State.BETWEEN and self._answer is not None and not self._wanted >> token_id & 1:
            self._spaces += 1
            if self._spaces == _MOST_SPACES:
                self._state = _State.ANSWERING
        else:
            self._state = _State.ANSWERING
            if self._answer is not None:
                self._answer.accept(token_id)
            return
        if self._answer is not None:
            self._answer.spend()

    def _begin(self, piece: bytes) -> None:
        """The beginning of an answer whose visible text may be anything."""
        self._said = (self._said + piece).lstrip()
        if self._said.startswith(self._tag):
            self._state = _State.THINKING
            self._end.push(self._said[len(self._tag) :])
        elif not self._tag.startswith(self._said):
            self._state = _State.ANSWERING

    def _thinking_allowed(self) -> bytes | None:
        if self._left is not None and self._left <= 0 and not self._characters.getstate()[0]:
            return self._bytes(self._closing.next(self._end.missing))
        return None if self._answer is None else self._bytes(self._closing.inside(self._end.missing))

    def _bytes(self, bits: int) -> bytes:
        return bits.to_bytes((len(self._closing.pieces) + 7) // 8, "little")
