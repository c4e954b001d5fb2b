"""Finds control tokens of a model in text that people typed, which must never act as one.

The model's vocabulary determines which texts are control tokens; they can be spelled in any way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

__all__ = ("LOOKALIKES", "ControlTokens", "control_tokens")

_LOOKALIKE = re.compile(
    r"<[^<>\s]{1,120}>|<\|[^<>|]{1,120}\|>"
    r"|\[/?[A-Za-z][A-Za-z0-9_]{2,60}\]|\[\|[^\[\]|]{1,60}\|\]"
    r"|\]~[^\[\]~]{1,60}~?[\[\]]|\[[a-z]{1,3}~\["
)
"""How control tokens are usually spelled: ``<|im_end|>``, ``</s>``, ``[INST]``, ``]~b]``. Other texts match too."""

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

    def find(self, text: str) -> Iterator[re.Match[str]]:
        """Every control token in the text. If several begin at the same place, only the longest counts."""
        return iter(()) if self._pattern is None else self._pattern.finditer(text)

    def replace(self, text: str, by: Callable[[re.Match[str]], str]) -> str:
        """The text with every control token replaced."""
        return text if self._pattern is None else self._pattern.sub(by, text)

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
    texts = sorted({text for text in spellings if 0 < len(text) <= _LONGEST}, reverse=True)
    if not texts:
        return None
    if len(texts) > _MOST or sum(map(len, texts)) > _MOST_CHARS:
        return _LOOKALIKE
    try:
        return re.compile(_any_of(texts))
    except RecursionError:  # each is the beginning of the next
        return _LOOKALIKE


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
