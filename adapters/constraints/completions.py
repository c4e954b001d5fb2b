"""Texts that complete an answer, in the fewest tokens that spell them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ("Completion", "Speller")

_BETWEEN_VALUES = b'"[]{},: '
_OTHER_SPACE = re.compile(rb"(?<![,:]) ")
_LONGEST = 24
"""Longer pieces are hardly ever part of what JSON needs; each length is one look-up per character."""


class Completion:
    """A text that follows an answer so far, and then its end; how many tokens it takes is known from each place on."""

    def __init__(
        self, text: bytes, fixed: Mapping[int, int], end: int, speller: Speller, *, spaced: bool = False
    ) -> None:
        """`fixed` are the tokens that the text consists of at some places, such as control tokens."""
        self.text = text
        self._fixed = fixed
        self._end = end
        self._is_spaced = spaced
        self._speller = speller
        self._counts = [1] * (len(text) + 1)
        self._first = [(end, 0)] * (len(text) + 1)
        self._until = [len(text)] * (len(text) + 1)
        for at in range(len(text) - 1, -1, -1):
            self._until[at] = at + 1 if at + 1 in fixed else self._until[at + 1]
            fewest = None
            for way in self.ways(at):
                count = 1 + self._counts[at + way[1]]
                if fewest is None or count <= fewest:
                    self._counts[at], self._first[at], fewest = count, way, count

    def ways(self, at: int) -> Iterable[tuple[int, int]]:
        """The tokens that go on with the text at a place, and how many bytes each of them takes; none at its end."""
        fixed = self._fixed.get(at)
        if fixed is not None:
            return ((fixed, len(self._speller.pieces[fixed])),)
        return self._speller.ways(self.text, at, self._until[at], spaced=self._is_spaced)

    def count(self, at: int) -> int:
        """The fewest tokens from a place on, with the one that ends the answer."""
        return self._counts[at]

    def places_after(self, at: int, piece: bytes) -> Iterator[int]:
        """Places from which the text may go on after a piece that is not its own: where the piece, its end from a quote
        on, or its beginning up to one leads to, spaces aside; the same place; and the one after the next token.
        """
        quote = piece.find(b'"')
        for part in (piece, piece[quote:], piece[: quote + 1]):
            bare = part.replace(b" ", b"")
            if bare and self.text.startswith(bare, at):
                yield at + len(bare)
        yield at
        yield at + self._first[at][1]

    def tokens(self, at: int) -> list[int]:
        """Those tokens."""
        tokens = []
        while at < len(self.text):
            token_id, size = self._first[at]
            tokens.append(token_id)
            at += size
        return [*tokens, self._end]

    def follow(self, at: int, token_id: int) -> int | None:
        """The place after a token that goes on with the text; None if it does not."""
        piece = self._speller.unspaced.get(token_id, self._speller.pieces[token_id])
        if not piece or at == len(self.text):
            return None
        fixed = self._fixed.get(at)
        if fixed is not None or token_id in self._speller.control:
            return at + len(piece) if fixed == token_id else None
        if not self.text.startswith(piece, at) or any(at < place < at + len(piece) for place in self._fixed):
            return None
        return at + len(piece)


class Speller:
    """Finds the tokens of a vocabulary that spell a text. Control tokens spell nothing."""

    def __init__(self, pieces: Sequence[bytes], control: frozenset[int]) -> None:
        self.pieces, self.control = pieces, control
        self._ids = {
            piece: token_id
            for token_id, piece in enumerate(pieces)
            if 0 < len(piece) <= _LONGEST and token_id not in control
        }
        self.unspaced = {
            token_id: piece.replace(b" ", b"")
            for piece, token_id in self._ids.items()
            if b" " in piece and not piece.strip(_BETWEEN_VALUES) and not _OTHER_SPACE.search(piece)
        }
        """The tokens that have a space where JSON may have one, and what they are without it."""
        self._spaced = {bare: token_id for token_id, bare in self.unspaced.items()}

    def ways(self, text: bytes, at: int, until: int, *, spaced: bool) -> list[tuple[int, int]]:
        """The tokens at a place of the text, and how much of it they take, up to the place `until`."""
        longest = min(_LONGEST, until - at)
        found = []
        for size in range(1, longest + 1):
            piece = text[at : at + size]
            token_id = self._ids.get(piece, self._spaced.get(piece) if spaced else None)
            if token_id is not None:
                found.append((token_id, size))
        return found

    def completions(self, tokens: Sequence[int]) -> Iterator[Completion]:
        """Completions that spell the same text as `tokens`, whose last one ends the answer: with spaces between the
        values of JSON where this takes fewer, without them, and just these tokens.
        """
        for every, spaced in ((False, True), (False, False), (True, False)):
            yield self._completion(tokens, every=every, spaced=spaced)

    def _completion(self, tokens: Sequence[int], *, every: bool, spaced: bool) -> Completion:
        text, fixed = bytearray(), {}
        for token_id in tokens[:-1]:
            piece = self.pieces[token_id]
            if every or token_id in self.control or len(piece) > _LONGEST:
                fixed[len(text)] = token_id
            text += piece
        return Completion(bytes(text), fixed, tokens[-1], self, spaced=spaced)
