"""The quickest way to the end of a JSON text: which of the allowed tokens lead there, and how many it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from corral.adapters.constraints.completions import Completion, Speller
from corral.core.ports.tokens import Vocabulary

__all__ = ("JsonEndings", "JsonPlace", "fits")

_WORDS = (b"null", b"true", b"false")
_DIGITS = tuple(bytes([digit]) for digit in b"0123456789")
_STRUCTURE = b'"[]{},: 0123456789nulltruefalse'
"""The characters of everything but strings and most numbers."""
_PRINTABLE = frozenset(bytes([byte]) for byte in range(0x20, 0x7F) if byte not in b'"\\')
_MORE = (b",", b"[", b"{")
_FEW = 64
_LONGEST = 8
_TOKENS_BEFORE_THEY_ARE_JOINED = 4
"""The way to the end is looked for in single characters where the model chooses; tokens have about as many."""
_A_CHOICE = 256
"""Tokens at most that go on with one of several given texts, such as keys, which may lead anywhere."""
_LETTERS_TRIED = 8
_MOST_OF_A_CHARACTER = 8
"""Tokens that complete a character once its first token is chosen: ``\\ud83`` needs ``d\\ude00``, in single letters."""
_MOST_OF_A_NUMBER = 16
"""The same for a number, whose digits `json_schemas` bounds."""


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
        self.ends = _bits(pieces, vocabulary.ends)
        """The tokens that end the answer."""
        self.more = _bits(pieces, (id for id, piece in enumerate(pieces) if piece.lstrip(b" ")[:1] in _MORE))
        """The tokens that begin a list, an object, or one more of their values."""
        self._speller = Speller(pieces, vocabulary.control)
        self._many = len(pieces) // 2

        # A vocabulary is large, so it is read once.
        short = [
            (token_id, piece)
            for token_id, piece in enumerate(pieces)
            if 0 < len(piece) <= _LONGEST and not piece.strip(_STRUCTURE) and token_id not in vocabulary.control
        ]

        def those(test: Callable[[bytes], bool]) -> int:
            return _bits(pieces, (token_id for token_id, piece in short if test(piece)))

        self._quotes = quotes = those(lambda piece: piece == b'"')
        self._samples = [id for id, piece in enumerate(pieces) if piece in (b"0", b"a")]
        self._single = _bits(pieces, (id for id, piece in enumerate(pieces) if len(piece) == 1))
        self._letters = _bits(pieces, (id for id, piece in enumerate(pieces) if piece.isalpha()))
        self._digits = _bits(pieces, (id for id, piece in enumerate(pieces) if piece.isdigit()))
        self._quoted = _bits(pieces, (id for id, piece in enumerate(pieces) if b'"' in piece))
        self._printable = _bits(
            pieces, (id for id, piece in enumerate(pieces) if piece in _PRINTABLE and id not in vocabulary.control)
        )
        by_cost: dict[int, list[int]] = {}
        for token_id, piece in enumerate(pieces):
            if piece and b'"' not in piece and token_id not in vocabulary.control:
                by_cost.setdefault(_left_of_a_character(piece), []).append(token_id)
        self._costs = {cost: _bits(pieces, ids) for cost, ids in by_cost.items()}
        # The first of these that is allowed at all is the shortest way on.
        self._outside = (
            self.ends,
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

    def is_free_text(self, allowed: int, place: JsonPlace) -> bool:
        """Whether nearly everything is allowed outside of a string, so that this is no JSON."""
        return not place.in_string and allowed.bit_count() > self._many

    def harmless(self, allowed: int, place: JsonPlace, room: int) -> int:
        """Those of the `allowed` tokens after which the way to the end is at most `room` tokens longer than now, though
        they do not lead to it: the text of a string, and digits.
        """
        if not place.in_string:
            return allowed & self._digits if room >= _MOST_OF_A_NUMBER else 0
        if not self.is_free_string(allowed) and (room < _MOST_OF_A_CHARACTER or allowed.bit_count() <= _A_CHOICE):
            return 0
        found = 0
        for cost, tokens in self._costs.items():
            found |= tokens if cost <= room else 0
        return allowed & found

    def is_free_string(self, allowed: int) -> bool:
        """Whether a string may end here, and go on with anything."""
        return bool(allowed & self._quotes) and allowed & self._printable == self._printable

    def quoted(self, allowed: int) -> int:
        """Those of the `allowed` tokens that have a quote."""
        return allowed & self._quoted

    def completion(self, matcher: Any, place: JsonPlace, most: int) -> Completion | None:
        """The quickest way to the end that is known, of at most `most` tokens; None if there is none, or if it leads
        through free text, whose end is unknown.

        `matcher` is at `place`; it is copied. The grammar takes the tokens of the completion as they are.
        """
        return self._completion(matcher, place, most, None, ())

    def _completion(
        self, matcher: Any, place: JsonPlace, most: int, known: Completion | None, starts: Sequence[int]
    ) -> Completion | None:
        walked = self._walked(matcher.deep_copy(), place.copy(), most * _TOKENS_BEFORE_THEY_ARE_JOINED, known, starts)
        if walked is None:
            return None
        found = next((one for one in self._speller.completions(walked) if fits(matcher, one.tokens(0))), None)
        return found if found is not None and found.count(0) <= most else None

    def letters(self, allowed: int, matcher: Any, completion: Completion, at: int, most: int) -> int:
        """All of the `allowed` tokens that are nothing but letters, if the completion fits after some of them."""
        letters = allowed & self._letters
        tokens = completion.tokens(at)
        if not letters or len(tokens) > most:
            return 0
        rest = letters
        for _ in range(_LETTERS_TRIED):
            if not rest:
                break
            lowest, highest = (rest & -rest).bit_length() - 1, rest.bit_length() - 1
            for token_id in (lowest, highest):
                if not fits(matcher, [token_id, *tokens]):
                    return 0
                rest &= ~(1 << token_id)
        return letters

    def after(
        self, token_id: int, matcher: Any, place: JsonPlace, completion: Completion, at: int, most: int
    ) -> int | None:
        """How many tokens the quickest way to the end takes once a token is chosen that leaves the `completion`, which
        the text has reached at `at`. None if more than `most`.
        """
        piece = self._pieces[token_id]
        for start in completion.places_after(at, piece):
            tokens = completion.tokens(start)
            if len(tokens) <= most and fits(matcher, [token_id, *tokens]):
                return len(tokens)
        ended = completion.text.find(b'"', at) + 1 if place.in_string else at
        matcher, place = matcher.deep_copy(), place.copy()
        if not matcher.consume_token(token_id):
            return None
        place.read(piece)
        for starts in ((ended,), ()):
            found = self._completion(matcher, place, most, completion, starts)
            if found is not None:
                return found.count(0)
        return None

    def _walked(
        self, matcher: Any, place: JsonPlace, most: int, known: Completion | None, starts: Sequence[int]
    ) -> list[int] | None:
        """The tokens of the quickest way; once the `known` completion fits from one of the `starts`, it is that."""
        tokens: list[int] = []
        while len(tokens) < most:
            if known is not None and not place.in_string:
                for start in starts:
                    if fits(matcher, rest := known.tokens(start)):
                        return [*tokens, *rest]
            possible = int.from_bytes(matcher.compute_bitmask(), "little")
            if self.is_free_text(possible, place):
                return None
            allowed = self.towards_end(possible, place)
            if ending := allowed & self.ends:
                return [*tokens, (ending & -ending).bit_length() - 1]
            if not allowed:
                return None
            token_id = self._nearest(allowed, matcher) if place.in_string else self._one_of(allowed)
            if not matcher.consume_token(token_id):
                return None
            tokens.append(token_id)
            place.read(self._pieces[token_id])
        return None

    def _nearest(self, allowed: int, matcher: Any) -> int:
        """Within a string: a single byte after which, or after a letter or digit more, the string may end; any single
        one, or the lowest token, if there is no such.
        """
        singles = (
            _ids(allowed & self._single & self._printable, len(_PRINTABLE))
            if self._quotes and not allowed & self._quotes
            else []
        )
        if len(singles) > 1:
            quote = (self._quotes & -self._quotes).bit_length() - 1
            for more in ((), *((token_id,) for token_id in self._samples)):
                for token_id in singles:
                    if fits(matcher, [token_id, *more, quote]):
                        return token_id
        chosen = allowed & self._single or allowed
        return (chosen & -chosen).bit_length() - 1

    def _one_of(self, allowed: int) -> int:
        """The longest of the first few tokens, since the text is given."""
        return max(_ids(allowed, _FEW), key=lambda token_id: len(self._pieces[token_id]))


def _ids(tokens: int, most: int) -> list[int]:
    """The lowest `most` tokens of a set."""
    found: list[int] = []
    while tokens and len(found) < most:
        lowest = tokens & -tokens
        found.append(lowest.bit_length() - 1)
        tokens ^= lowest
    return found


def fits(matcher: Any, tokens: list[int]) -> bool:
    """Whether the grammar takes all of the tokens from where `matcher` is, which stays there."""
    return bool(matcher.validate_tokens(tokens) == len(tokens))


def _left_of_a_character(piece: bytes) -> int:
    """How many more tokens may complete the last character of a piece within a string, if one token spells a byte."""
    if b"\\" in piece:
        if b"\\u" in piece:
            return _MOST_OF_A_CHARACTER
        return (len(piece) - len(piece.rstrip(b"\\"))) % 2
    try:
        piece.decode()
    except UnicodeDecodeError as error:
        size = 4 if piece[error.start] >= 0xF0 else 3 if piece[error.start] >= 0xE0 else 2
        return max(0, size - (len(piece) - error.start))
    return 0


def _closes(length: int, piece: bytes) -> bool:
    return len(piece) == length and not piece.strip(b"]}")


def _bits(pieces: Sequence[bytes], ids: Iterable[int]) -> int:
    bits = bytearray((len(pieces) + 7) // 8)
    for token_id in ids:
        bits[token_id >> 3] |= 1 << (token_id & 7)
    return int.from_bytes(bits, "little")
