"""The name that the user most likely meant, for errors about unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ("did_you_mean", "nearest")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that is most similar to `word`, ignoring case; None if none is close."""
    spelt = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), spelt, n=1)
    if found:
        return spelt[found[0]]
    longer = [name for lower, name in spelt.items() if word and lower.startswith(word.lower())]
    return longer[0] if len(longer) == 1 else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """A remedy: the closest name, or `otherwise` if none is close."""
    near = nearest(word, known)
    return otherwise if near is None else f"did you mean {near}?"
