"""Reads values that are no JSON: Python's literals, and objects whose keys have no quotes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from corral.adapters.answer_parsers.call_source import CallSource, CutOff, Step

__all__ = ("LooseValues",)

_MOST_LEVELS = 64

_WORD = re.compile(r"[^\s,:=\[\]{}()'\"<]*")
_WORDS: Mapping[str, Any] = {
    "True": True, "true": True, "False": False, "false": False, "None": None, "null": None,
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?(\d[\d_]{0,400}|(?=\.))(\.\d{0,400})?([eE][+-]?\d{1,4})?")
_ESCAPES: Mapping[str, str] = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "\n": "",
    "\\": "\\", "'": "'", '"': '"', "/": "/",
}  # fmt: skip
_CODES: Mapping[str, int] = {"x": 2, "u": 4, "U": 8}
"""How many hexadecimal digits follow."""

_CLOSERS: Mapping[str, str] = {"[": "]", "(": ")"}


class LooseValues:
    """Reads values from `source`. `raw` is a mark before and after texts in which nothing is escaped."""

    def __init__(self, source: CallSource, *, raw: str | None = None) -> None:
        self._source = source
        self._raw = raw
        self._quotes = ('"""', "'''", '"', "'") if raw is None else (raw, '"')

    def value(self, depth: int = 0) -> Step[Any]:
        """The next value. Raises `ValueError` if there is none."""
        if depth > _MOST_LEVELS:
            raise ValueError(f"its values are nested more than {_MOST_LEVELS} levels deep")
        source = self._source
        yield from source.space()
        quote = yield from source.accept(*self._quotes)
        if quote:
            return (yield from self._text(quote))
        opening = yield from source.accept("{", "[", "(")
        if opening == "{":
            return (yield from self.pairs(depth + 1))
        if opening:
            return (yield from self._items(_CLOSERS[opening], depth + 1))
        word = yield from source.run(_WORD)
        if word in _WORDS:
            return _WORDS[word]
        if _NUMBER.fullmatch(word):
            return _number(word.replace("_", ""))
        if self._raw is not None and word:
            return word
        following = yield from source.peek()
        raise ValueError(f"{word[:20] or following!r} is not a value")

    def pairs(self, depth: int = 0, *, closing: str = "}", sign: str = ":") -> Step[dict[str, Any]]:
        """Names and values up to `closing`, with `sign` between them. The opening brace was read already."""
        source, found = self._source, dict[str, Any]()
        while True:
            yield from source.space()
            if (yield from source.accept(closing)):
                return found
            quote = yield from source.accept(*self._quotes)
            name = (yield from self._text(quote)) if quote else (yield from source.run(_WORD))
            if not name and not quote:
                if not (yield from source.peek()):
                    raise CutOff
                raise ValueError("a name is missing in its arguments")
            yield from source.space()
            yield from source.expect(sign)
            found[name] = yield from self.value(depth)
            yield from source.space()
            if (yield from source.expect(",", closing)) == closing:
                return found

    def _items(self, closing: str, depth: int) -> Step[list[Any]]:
        source, found = self._source, list[Any]()
        while True:
            yield from source.space()
            if (yield from source.accept(closing)):
                return found
            found.append((yield from self.value(depth)))
            yield from source.space()
            if (yield from source.expect(",", closing)) == closing:
                return found

    def _text(self, quote: str) -> Step[str]:
        """The rest of a text, after its opening quote."""
        source = self._source
        if quote == self._raw:
            return (yield from source.until(quote))[0]
        pieces = []
        while True:
            text, end = yield from source.until(quote, "\\")
            pieces.append(text)
            if end == quote:
                # Two escapes may be one character; half of one is refused.
                return "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16")
            pieces.append((yield from self._escaped()))

    def _escaped(self) -> Step[str]:
        char = yield from self._source.character()
        if char not in _CODES:
            return _ESCAPES.get(char, f"\\{char}")
        digits = ""
        for _ in range(_CODES[char]):
            digits += yield from self._source.character()
        try:
            return chr(int(digits, 16))
        except (ValueError, OverflowError):
            raise ValueError(f"\\{char}{digits} is not a character") from None


def _number(word: str) -> int | float:
    if re.fullmatch(r"[+-]?\d+", word):
        return int(word)
    value = float(word)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value
