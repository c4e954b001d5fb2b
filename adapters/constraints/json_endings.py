"""The quickest way to the end of a JSON text: which of the allowed tokens lead there, and how many it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from corral.core.ports.tokens import Vocabulary

__all__ = ("JsonEndings", "JsonPlace")

_WORDS = (b"null", b"true", b"false")
_DIGITS = tuple(bytes([digit]) for digit in b"0123456789")
_STRUCTURE = b'"[]{},: 0123456789nulltruefalse'
"""The characters of everything but strings and most numbers."""
_FEW = 64
_LONGEST = 8


class JsonPlace:
    """Whether a JSON text, read so far, ends within a string."""

    __slots__ = ("_escaped", "in_string")

    def __init__(self) -> None:
        self.in_string = False
        self._escaped = False

    def read(self, piece: bytes) -> None:
        if not self.in_string and b'"' not in piece:
            return
        for byte in piece:
            if self._escaped:
                self._escaped = False
            elif byte == 0x22:
                self.in_string = not self.in_string
            elif byte == 0x5C and self.in_string:
                self._escaped = True

    def copy(self) -> JsonPlace:
        place = JsonPlace()
        place.in_string, place._escaped = self.in_string, self._escaped
        return place


class JsonEndings:
    """Knows the tokens of one vocabulary. Sets of tokens are bits of an integer, the lowest for token 0."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        pieces = vocabulary.pieces
        self._pieces = pieces
        self._ends = _bits(pieces, vocabulary.ends)
        self._many = len(pieces) // 2

        # A vocabulary is large, so it is read once.
        short = [
            (token_id, piece)
            for token_id, piece in enumerate(pieces)
            if 0 < len(piece) <= _LONGEST and not piece.strip(_STRUCTURE) and token_id not in vocabulary.control
        ]

        def those(test: Callable[[bytes], bool]) -> int:
            return _bits(pieces, (token_id for token_id, piece in short if test(piece)))

        quotes = those(lambda piece: piece == b'"')
        # The first of these that is allowed at all is the shortest way on.
        self._outside = (
            self._ends,
            *(those(partial(_closes, length)) for length in range(_LONGEST, 0, -1)),
            those(lambda piece: piece in (b",", b", ", b":", b": ")),
            those(lambda piece: piece in _DIGITS or any(word.startswith(piece) for word in _WORDS)),
            quotes,
            those(lambda piece: piece == b"["),
            those(lambda piece: piece == b"{"),
        )
        self._inside = (quotes,)

    def towards_end(self, allowed: int, place: JsonPlace) -> int:
        """Those of the `allowed` tokens that lead to the end most quickly; all of them if none is known to."""
        for preferred in self._inside if place.in_string else self._outside:
            if both := allowed & preferred:
                return both
        return allowed

    def may_end(self, allowed: bytes) -> bool:
        """Whether the text is complete."""
        return bool(int.from_bytes(allowed, "little") & self._ends)

    def distance(self, matcher: Any, place: JsonPlace, most: int) -> int:
        """How many tokens the quickest way takes, with the one that ends the answer; more than `most` if not fewer, or
        if it leads through free text, whose end is unknown.

        `matcher` is at `place`; it is copied.
        """
        matcher, place = matcher.deep_copy(), place.copy()
        for count in range(1, most + 1):
            possible = int.from_bytes(matcher.compute_bitmask(), "little")
            if not place.in_string and possible.bit_count() > self._many:
                break
            allowed = self.towards_end(possible, place)
            if allowed & self._ends:
                return count
            if not allowed:
                break
            token_id = self._one_of(allowed, place)
            if not matcher.consume_token(token_id):
                break
            place.read(self._pieces[token_id])
        return most + 1

    def _one_of(self, allowed: int, place: JsonPlace) -> int:
        """One of the first few tokens. Within a string, where the model chooses, the shortest, so that the way is never
        thought too short; elsewhere the longest, since the text is given.
        """
        found: list[int] = []
        while allowed and len(found) < _FEW:
            lowest = allowed & -allowed
            found.append(lowest.bit_length() - 1)
            allowed ^= lowest
        choose = min if place.in_string else max
        return choose(found, key=lambda token_id: len(self._pieces[token_id]))


def _closes(length: int, piece: bytes) -> bool:
    return len(piece) == length and not piece.strip(b"]}")


def _bits(pieces: Sequence[bytes], ids: Iterable[int]) -> int:
    bits = bytearray((len(pieces) + 7) // 8)
    for token_id in ids:
        bits[token_id >> 3] |= 1 << (token_id & 7)
    return int.from_bytes(bits, "little")
