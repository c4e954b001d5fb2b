"""White space, as Go's ``unicode.IsSpace`` defines it."""

from __future__ import annotations

__all__ = ("SPACES", "trim_space")

SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""Every character of white space."""


def trim_space(text: str) -> str:
    """The text without white space at both ends. Python's `str.strip` also removes four control characters."""
    return text.strip(SPACES)
