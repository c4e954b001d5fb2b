"""Guesses from the text itself: what followed the last tokens where they stood before, in the prompt or the answer."""

from __future__ import annotations

from collections.abc import Sequence

from corral.adapters.engines.llama_cpp.guess_policy import Evidence
from corral.adapters.engines.llama_cpp.guessing import Offer

__all__ = ("PromptLookup",)

_SHORTEST = 3
"""So many tokens must have stood there before."""
_LONGEST = 32
"""A longer match says no more."""
_PLACES = 8
"""So many earlier places are compared, the latest first."""
_INDEXED_AT_ONCE = 2_000
"""So many tokens of a long prompt are indexed in one step, which takes about a millisecond."""


class PromptLookup:
    """The tokens of one request, prompt and answer, and where each three of them stood.

    A negative id stands for what is no token (a cell of an image), and is never guessed.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self._latest: dict[tuple[int, ...], int] = {}
        self._earlier: list[int] = []
        self._followed = self._place = -1

    def add(self, token: int) -> None:
        """The next token of the answer."""
        follows = self._followed
        known = 0 <= follows < len(self._tokens) and self._tokens[follows] == token
        self._followed = follows + 1 if known else -1
        self._tokens.append(token)

    def offer(self, most: int) -> Offer:
        """As `Guesser.offer`. It takes at least three tokens that have stood before."""
        self._index()
        place = self._followed
        matched = self._matching(place) if place >= 0 else 0
        if matched < _LONGEST:
            place, matched = self._longest(place, matched)
        self._place = place
        if matched < _SHORTEST:
            return Offer(0, "short")
        return Offer(len(self._following(most)), _evidence(matched))

    def guess(self, count: int) -> list[int]:
        self._followed = self._place
        return self._following(count)

    def close(self) -> None:
        """There is nothing to free."""

    def _following(self, most: int) -> list[int]:
        """What follows the place. At the end of the text, it goes on with what is guessed: a text that repeats itself
        is guessed to do so again."""
        following = self._tokens[self._place : self._place + most]
        period = len(following)
        while len(following) < most:
            following.append(following[-period])
        return following[: next((at for at, token in enumerate(following) if token < 0), most)]

    def _index(self) -> None:
        """Enter what is new, but not the last three tokens: nothing follows them yet."""
        tokens, latest = self._tokens, self._latest
        start = len(self._earlier)
        for end in range(start, min(len(tokens), start + _INDEXED_AT_ONCE)):
            if end < _SHORTEST:
                self._earlier.append(-1)
                continue
            key = tuple(tokens[end - _SHORTEST : end])
            self._earlier.append(latest.get(key, -1))
            latest[key] = end

    def _longest(self, place: int, matched: int) -> tuple[int, int]:
        """Of the latest places that have the last three tokens before them, that with the most, if it has more than
        `matched`."""
        at = self._latest.get(tuple(self._tokens[-_SHORTEST:]), -1)
        for _ in range(_PLACES):
            if at < 0:
                break
            length = self._matching(at)
            if length > matched:
                place, matched = at, length
            at = self._earlier[at]
        return place, matched

    def _matching(self, place: int) -> int:
        """How many tokens before the place are the last tokens."""
        tokens, end = self._tokens, len(self._tokens)
        length = 0
        while length < _LONGEST and length < place and tokens[place - 1 - length] == tokens[end - 1 - length]:
            length += 1
        return length


def _evidence(matched: int) -> Evidence:
    if matched < 5:
        return "short"
    if matched < 9:
        return "medium"
    return "long" if matched < 17 else "very long"
