"""Finds control tokens of a model in text that people typed, which must never act as one.

The model's vocabulary determines which texts are control tokens; they can be spelled in any way.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import lru_cache

__all__ = ("LOOKALIKES", "ControlTokens", "control_tokens")

_LOOKALIKE = re.compile(
    r"<[^<>\s]{1,120}>|<\|[^<>|]{1,120}\|>"
    r"|\[/?[A-Za-z][A-Za-z0-9_]{2,60}\]|\[\|[^\[\]|]{1,60}\|\]"
    r"|\]~[^\[\]~]{1,60}~?[\[\]]|\[[a-z]{1,3}~\["
)
"""How control tokens are usually spelled: ``<|im_end|>``, ``</s>``, ``[INST]``, ``]~b]``. Other texts match too."""

_BEGUN_LOOKALIKE = re.compile(
    r"(?:<[^<>\ufdd0\ufdd1]{0,124}|\[[^\[\]\ufdd0\ufdd1]{0,64}|\]~[^\[\]~\ufdd0\ufdd1]{0,60}~?)\Z"
)

_REMEMBERED = 16
_LONGEST = 256
_MOST = 32_768
_MOST_CHARS = 1 << 20
"""Larger sets would take seconds and hundreds of megabytes to compile. Some models of speech have 28,000 short ones."""


class ControlTokens:
    """The control tokens of a model, by spelling.

    If `spellings` is None, they are unknown, and everything that looks like a control token counts as one. The same
    goes for a vocabulary with more of them than can be compiled; single ones that are too long are left out.
    """

    def __init__(self, spellings: tuple[str, ...] | None) -> None:
        self._pattern = _LOOKALIKE if spellings is None else _pattern(spellings)
        self._texts = [] if self._pattern is _LOOKALIKE else _usable(spellings or ())[::-1]
        firsts = "".join(sorted({text[0] for text in self._texts}))
        self._firsts = re.compile(f"[{re.escape(firsts)}]") if firsts else None

    def find(self, text: str) -> Iterator[re.Match[str]]:
        """Every control token in the text. If several begin at the same place, only the longest counts."""
        return iter(()) if self._pattern is None else self._pattern.finditer(text)

    def replace(self, text: str, by: Callable[[re.Match[str]], str]) -> str:
        """The text with every control token replaced."""
        return text if self._pattern is None else self._pattern.sub(by, text)

    def begun(self, text: str) -> int:
        """Where a control token begins that the end of the text cuts off; the length of the text if there is none."""
        start = max(0, len(text) - _LONGEST + 1)
        if self._pattern is _LOOKALIKE:
            found = _BEGUN_LOOKALIKE.search(text, start)
            return len(text) if found is None else found.start()
        for first in () if self._firsts is None else self._firsts.finditer(text, start):
            rest = text[first.start() :]
            place = bisect_right(self._texts, rest)
            if place < len(self._texts) and self._texts[place].startswith(rest):
                return first.start()
        return len(text)

    def is_one(self, text: str) -> bool:
        """Whether the whole text is a control token."""
        return self._pattern is not None and self._pattern.fullmatch(text) is not None


LOOKALIKES = ControlTokens(None)


@lru_cache(_REMEMBERED)
def control_tokens(spellings: tuple[str, ...] | None) -> ControlTokens:
    """The same object for the same spellings, since a vocabulary may have thousands of them."""
    return ControlTokens(spellings)


def _pattern(spellings: tuple[str, ...]) -> re.Pattern[str] | None:
    """A pattern for these texts; None if there are none."""
    texts = _usable(spellings)
    if not texts:
        return None
    if len(texts) > _MOST or sum(map(len, texts)) > _MOST_CHARS:
        return _LOOKALIKE
    try:
        return re.compile(_any_of(texts))
    except RecursionError:  # each is the beginning of the next
        return _LOOKALIKE


def _usable(spellings: tuple[str, ...]) -> list[str]:
    """Without those that are too long, in descending order."""
    return sorted({text for text in spellings if 0 < len(text) <= _LONGEST}, reverse=True)


def _any_of(texts: list[str]) -> str:
    """A pattern that matches the longest of the texts, which are in descending order.

    Shared prefixes are factored out: otherwise every ``<`` would be compared with thousands of alternatives.
    """
    prefix = _shared_prefix(texts[-1], texts[0])
    rests: dict[str, list[str]] = {}
    for text in texts:
        rests.setdefault(text[len(prefix) : len(prefix) + 1], []).append(text[len(prefix) :])
    branches = [_any_of(rest) if first else "" for first, rest in rests.items()]
    return re.escape(prefix) + (branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})")


def _shared_prefix(one: str, other: str) -> str:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return one[:length]
