"""Finds where a JSON object or array ends, in a text that arrives in pieces."""

from __future__ import annotations

import re

__all__ = ("JsonSpan",)

_MARK = re.compile(r"[^\s\w,:+.-]")  # what changes the state, or is not JSON outside a string
_STRING = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)

_MOST_LEVELS = 128
"""As in request bodies: what is nested more deeply could not be sent back."""


class JsonSpan:
    """Follows one value, whose first character other than whitespace must be a brace or a bracket.

    Every character is looked at once, however the text is cut.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def in_string(self) -> bool:
        """Whether the text so far ends inside a string."""
        return self._in_string

    def feed(self, more: str) -> int | None:
        """The place in `more` where the value ends, None if it goes on.

        Raises `ValueError` for a text that is no object or array, as soon as that is certain, and for deep nesting.
        """
        position = 0
        if not self._depth:
            begun = more.lstrip()
            if not begun:
                return None
            if begun[0] not in "{[":
                raise ValueError("it is not a JSON object")
        while position < len(more):
            if self._in_string:
                position = self._skip_string(more, position)
                continue
            found = _MARK.search(more, position)
            if found is None:
                return None
            position = found.end()
            if found[0] == '"':
                self._in_string = True
            elif found[0] in "{[":
                self._depth += 1
                if self._depth > _MOST_LEVELS:
                    raise ValueError(f"it is nested more than {_MOST_LEVELS} levels deep")
            elif found[0] not in "}]":
                raise ValueError("it is not valid JSON")
            else:
                self._depth -= 1
                if not self._depth:
                    return position
        return None

    def _skip_string(self, text: str, position: int) -> int:
        """The place after the string's end, or the end of the text."""
        if self._escaped:
            self._escaped = False
            return position + 1
        found = _STRING.match(text, position)
        assert found is not None  # it matches the empty text too
        end = found.end()
        if end == len(text):
            return end
        if text[end] == '"':
            self._in_string = False
        else:  # a backslash at the end: what it escapes comes next
            self._escaped = True
        return end + 1
