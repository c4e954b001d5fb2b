"""The mask that ends a model's thinking: once the budget is used up, only the tokens of the end tag may come."""

from __future__ import annotations

import codecs

from corral.core.errors import InvalidRequest
from corral.core.ports.tokens import Vocabulary
from corral.core.requests.requests import ThinkingBudget
from corral.core.stepping.text_watch import TextWatch

__all__ = ("Spelling", "ThinkingMask")

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class Spelling:
    """The tokens that can spell a given text. Reads the whole vocabulary once."""

    def __init__(self, text: str, vocabulary: Vocabulary) -> None:
        """Raises `InvalidRequest` for an empty text, and for one that the vocabulary cannot spell."""
        if not text:
            raise InvalidRequest("thinking_budget: end is empty", "name the tag that ends the model's thinking")
        data = text.encode()
        self.pieces = vocabulary.pieces
        self._ids: dict[bytes, list[int]] = {}
        for token_id, piece in enumerate(vocabulary.pieces):
            if piece and piece in data:
                self._ids.setdefault(piece, []).append(token_id)
        if not all(self._next(data[start:]) for start in range(len(data))):
            raise InvalidRequest(f"thinking_budget: this model has no tokens for {text!r}")

    def allowed(self, rest: bytes) -> bytes:
        """The mask that allows only the longest token at the beginning of `rest`."""
        bits = bytearray((len(self.pieces) + 7) // 8)
        for token_id in self._next(rest):
            bits[token_id >> 3] |= 1 << (token_id & 7)
        return bytes(bits)

    def _next(self, rest: bytes) -> list[int]:
        for length in range(len(rest), 0, -1):
            if ids := self._ids.get(rest[:length]):
                return ids
        return []


class ThinkingMask:
    """A `RequestMask` that allows everything until `max_tokens` tokens have followed `start`, and then only `end`.

    The end tag is never forced in the middle of a character, and the part that the model has already written is not
    repeated.
    """

    ignored: tuple[str, ...] = ()

    def __init__(self, budget: ThinkingBudget, spelling: Spelling) -> None:
        self._left = budget.max_tokens
        self._spelling = spelling
        self._start = TextWatch(budget.start)
        self._end = TextWatch(budget.end)
        self._characters = _Utf8Decoder(errors="replace")

    def allowed(self) -> bytes | None:
        if not self._start.found or self._end.found or self._left > 0 or self._characters.getstate()[0]:
            return None
        return self._spelling.allowed(self._end.missing)

    def accept(self, token_id: int) -> None:
        if self._end.found:
            return
        piece = self._spelling.pieces[token_id]
        self._characters.decode(piece)
        if self._start.found:
            self._left -= 1
            self._end.push(piece)
        else:
            self._start.push(piece)
