"""Divides long texts into pieces that have the same ids as the whole text, and estimates the fewest tokens of a text.

A text may be divided before a space or line break between a character and a letter, if no token of the vocabulary spans
that place: merges cannot either, and no known way of splitting words looks further back. Every place is tested on the
text around it before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np

from corral.adapters.engine_kit.token_ids import TextIds, checked_ids
from corral.core.errors import EngineError, InvalidRequest, PromptTooLong, Unsupported
from corral.core.requests.prompts import MediaPart, Prompt, TokensPart

__all__ = ("PIECE_CHARACTERS", "TextPieces", "TokenSizes", "finished", "gradual_ids")

PIECE_CHARACTERS = 12_288
"""The length of a piece: about ten milliseconds of work."""
_LONGEST_RUN = 500_000  # characters in one call of the tokenizer, which cannot be interrupted
_WINDOW = 65_536
_AROUND = 64
_CANDIDATES_PER_WINDOW = 32
_BORDER = re.compile(r"(?<=\S)[ \n](?=[^\W\d_])")
_LEADS = "aeotnx"
_TEXT_BYTES = frozenset(range(0x20, 0xF1)) - {0xC0, 0xC1} | frozenset(b"\t\n\r")
"""The bytes of UTF-8, without control characters and unused planes: vocabularies lack bytes for some of them."""

T = TypeVar("T")


def finished(steps: Generator[None, None, T]) -> T:
    """Run all steps without a pause and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


class TokenSizes:
    """Computes the fewest tokens that a text can have, from its bytes alone.

    A token of n bytes stands for at most n bytes of text, so each byte counts 1/n, where n is the longest token that it
    occurs in. `lossless` says that the tokenizer drops no byte, and merges no bytes beyond its tokens; `free` are bytes
    that it may drop anyway. If it is not lossless, nothing is known: `longest` is None and `fewest` is 0. `longest`
    applies to text without control characters, which many vocabularies lack.
    """

    def __init__(self, pieces: Iterable[bytes], *, lossless: bool, free: bytes = b"") -> None:
        known = [piece for piece in pieces if piece]
        data = np.frombuffer(b"".join(known), np.uint8)
        sizes = np.fromiter(map(len, known), np.int64, len(known))
        longest = np.zeros(256, np.int64)
        self.before: dict[int, frozenset[int]] = {}
        """For a space and for a line break: the bytes that precede it in any token."""
        if known:
            spread = np.repeat(sizes, sizes)
            # Numbers of 16 bits are sorted by radix: a tenth of the time.
            order = np.argsort(spread.astype(np.uint16) if sizes.max() < 1 << 16 else spread, kind="stable")
            longest[data[order]] = spread[order]  # the last value written, the largest, counts
            inner = np.ones(len(data), bool)
            inner[np.cumsum(sizes)[:-1]] = False  # the first byte of a token has no neighbour before it
            inner[0] = False
        for separator in b" \n":
            places = np.flatnonzero((data == separator) & inner) if known else np.zeros(0, np.int64)
            self.before[separator] = frozenset(int(byte) for byte in np.unique(data[places - 1]))
        alone = {piece[0] for piece in known if len(piece) == 1}
        self._weights = np.zeros(256)
        if lossless:
            for byte in alone - set(free):
                self._weights[byte] = 1 / longest[byte]
        covered = lossless and not free and alone >= _TEXT_BYTES
        self.longest: int | None = int(sizes.max()) if covered else None

    def fewest(self, text: str) -> int:
        """Return a lower bound of the text's tokens."""
        data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
        return int(np.bincount(data, minlength=256) @ self._weights - 1e-6) if len(data) else 0


class TextPieces:
    """Tokenizes texts of any length, piece by piece. Thread-safe if `text_ids` is.

    `marks` are the texts that the tokenizer searches for first, such as control tokens.
    """

    def __init__(self, text_ids: TextIds, sizes: TokenSizes, marks: Iterable[str]) -> None:
        self._text_ids = text_ids
        self.sizes = sizes
        spelt = {mark.casefold() for mark in marks if mark}
        self._marks = frozenset(spelt)
        self._mark_lengths = sorted({len(mark) for mark in spelt})
        self._spaced_marks = tuple(mark for mark in spelt if re.search(r"\s", mark))
        self._lead, self._lead_ids = self._chosen_lead()

    def gradually(
        self, text: str, *, parse_special: bool, most: int | None = None, cut: bool = False
    ) -> Generator[None, None, list[int]]:
        """Return the text's ids; yield between pieces. With `cut`, the first ids are enough, if there are more than
        `most`.

        Raises `PromptTooLong` as soon as it is known that there are more than `most`, if not `cut`; `InvalidRequest`
        for a long text that cannot be divided.
        """
        if most is not None and not cut and len(text) > min(most, PIECE_CHARACTERS):
            yield from self._require_fewer(text, most)
        ids: list[int] = []
        start = 0
        while start < len(text):
            end = yield from self._next_border(text, start)
            if end - start > _LONGEST_RUN:
                raise InvalidRequest(
                    f"a text of {end - start} characters has no space or line break before a letter where it could "
                    "be tokenized in pieces",
                    f"split it; at most {_LONGEST_RUN} characters in a row may come without one",
                )
            ids.extend(self._piece(text, start, end, parse_special=parse_special))
            if most is not None and len(ids) > most:
                if cut:
                    return ids
                raise _too_long(most)
            start = end
            if start < len(text):
                yield
        return ids

    def _require_fewer(self, text: str, most: int) -> Generator[None, None, None]:
        fewest = 0
        for start in range(0, len(text), _WINDOW):
            fewest += self.sizes.fewest(text[start : start + _WINDOW])
            if fewest > most:
                raise _too_long(most)
            yield

    def _piece(self, text: str, start: int, end: int, *, parse_special: bool) -> Sequence[int]:
        """Return the ids of a part of the text.

        Parts after the first are put behind a letter, as they were in the whole.
        """
        if start == 0:
            return self._text_ids(text[:end], parse_special=parse_special)
        ids = self._text_ids(self._lead + text[start:end], parse_special=parse_special)
        if tuple(ids[: len(self._lead_ids)]) != self._lead_ids:
            raise EngineError("the tokenizer no longer splits a text where it did a moment ago")
        return ids[len(self._lead_ids) :]

    def _next_border(self, text: str, start: int) -> Generator[None, None, int]:
        """Find the end of the piece that begins at `start`: the end of the text if it cannot be divided."""
        at = start + PIECE_CHARACTERS
        if not self._lead:
            return len(text)
        while at < len(text):
            candidates = _BORDER.finditer(text, at, at + _WINDOW + 1)
            for match in islice(candidates, _CANDIDATES_PER_WINDOW):
                if self._divides(text, match.start()):
                    return match.start()
            at += _WINDOW
            if at < len(text):
                yield
        return len(text)

    def _divides(self, text: str, place: int) -> bool:
        before = text[place - 1].encode("utf-8", "replace")[-1]
        if before in self.sizes.before[ord(text[place])]:
            return False
        folded = text[max(0, place - 256) : place].casefold()
        if any(folded[-length:] in self._marks for length in self._mark_lengths if length <= len(folded)):
            return False
        around = text[max(0, place - 256) : place + 256].casefold()
        at = len(folded)
        for mark in self._spaced_marks:
            if around.find(mark, max(0, at - len(mark) + 1), at + len(mark)) >= 0:
                return False
        left, right = text[max(0, place - _AROUND) : place], text[place : place + _AROUND]
        for parse_special in (True, False):
            whole = list(self._text_ids(left + right, parse_special=parse_special))
            behind = list(self._text_ids(self._lead + right, parse_special=parse_special))
            parts = [*self._text_ids(left, parse_special=parse_special), *behind[len(self._lead_ids) :]]
            if whole != parts or tuple(behind[: len(self._lead_ids)]) != self._lead_ids:
                return False
        return True

    def _chosen_lead(self) -> tuple[str, tuple[int, ...]]:
        """Find a letter after which no token continues, and its ids; empty if this tokenizer has none."""
        for letter in _LEADS:
            if letter in self._marks or any(ord(letter) in bytes_ for bytes_ in self.sizes.before.values()):
                continue
            ids = tuple(self._text_ids(letter, parse_special=False))
            if ids and ids == tuple(self._text_ids(f"{letter} b", parse_special=False))[: len(ids)]:
                return letter, ids
        return "", ()


def gradual_ids(
    prompt: Prompt, pieces: TextPieces, vocabulary_size: int, most: int | None, *, cut: bool
) -> Generator[None, None, list[int]]:
    """Return the ids of all parts, piece by piece; `most` and `cut` as in `TextPieces.gradually`.

    Raises `InvalidRequest` for an id that is not in the vocabulary.
    """
    ids: list[int] = []
    since = 0
    for part in prompt:
        if isinstance(part, TokensPart):
            ids.extend(checked_ids(part.ids, vocabulary_size))
        elif isinstance(part, MediaPart):
            raise Unsupported("a tokenizer has no tokens for images")
        else:
            rest = None if most is None else max(0, most - len(ids))
            ids.extend((yield from pieces.gradually(part.text, parse_special=part.parse_special, most=rest, cut=cut)))
            since += len(part.text)
        if most is not None and len(ids) > most:
            if cut:
                return ids
            raise _too_long(most)
        if since > PIECE_CHARACTERS:
            since = 0
            yield
    return ids


def _too_long(most: int) -> PromptTooLong:
    return PromptTooLong(f"a text has more than the {most} tokens that fit", "shorten it, or raise num_ctx")
