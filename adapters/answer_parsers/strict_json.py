"""Checks the text of a JSON object or list while it arrives: what is passed on is always the beginning of one."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ("StrictJson",)

_SPACE = r"[ \t\n\r]*"
_SCALAR = r"(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)"
_BETWEEN: Mapping[str, re.Pattern[str]] = {
    "": re.compile(""),
    "{": re.compile(_SPACE),
    "key": re.compile(rf"{_SPACE}:{_SPACE}(?:(?P<value>{_SCALAR}){_SPACE}(?:(?P<comma>,){_SPACE})?)?"),
    "in {": re.compile(rf"{_SPACE}(?:(?P<comma>,){_SPACE})?"),
    "[": re.compile(
        rf"{_SPACE}(?:(?P<value>{_SCALAR}){_SPACE}(?:,{_SPACE}{_SCALAR}{_SPACE})*(?:(?P<comma>,){_SPACE})?)?"
    ),
    "in [": re.compile(rf"{_SPACE}(?:,{_SPACE}{_SCALAR}{_SPACE})*(?:(?P<comma>,){_SPACE})?"),
}
"""What stands between two of ``"{[]}``, after what came last."""

_HIGH, _LOW = r"\\u[dD][89abAB][0-9a-fA-F]{2}", r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_TEXT = re.compile(rf'(?:[^"\\]+|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{{4}}|{_HIGH}{_LOW})*')
_ESCAPE_BEGUN = re.compile(
    r"\\(?:u(?:[0-9a-fA-F]{0,3}|[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?))?"
)
_CONTROL = re.compile(r"[\x00-\x1f]")
_SHORT: Mapping[str, str] = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class StrictJson:
    """Follows a text that is read in parts: `between`, then the contents of strings in `inside`, each ended by `ended`.

    Each part that fits is given to `heard` at once, with line breaks in strings written as escapes: models write them
    as they are. A text that does not fit raises `ValueError`, before any of it is heard.
    """

    def __init__(self) -> None:
        self.levels: list[str] = []
        self.last = ""
        """What came last: an opening bracket, a key, or a value in such a bracket."""

        self._is_key = False
        self._escape = ""

    def heard(self, text: str) -> None:
        """More of the text."""

    def begun(self, text: str) -> None:
        """The beginning of an object: its brace, and perhaps its first key."""
        self.between("", text[:1])
        if text[1:]:
            self.between("", '"')
            self.inside(text[2:-1])
            self.ended()

    def between(self, text: str, char: str) -> None:
        """What stands before the next of ``"{[]}``, and this one."""
        matched = _BETWEEN[self.last].fullmatch(text)
        found = {} if matched is None else matched.groupdict()
        if matched is None or char not in self._expected(found):
            raise ValueError(f"it is not valid JSON: unexpected {(text.strip() + char)[:20]!r}")
        if char == '"':
            self._is_key = self.levels[-1] == "{" and (self.last != "key" or bool(found["value"]))
        elif char in "{[":
            self.levels.append(char)
            self.last = char
        else:
            self.levels.pop()
            self._has_value()
        self.heard(text + char)

    def _expected(self, found: Mapping[str, str | None]) -> str:
        """Which characters may follow what was found."""
        if not self.last:
            return "{["
        if not self.levels:
            return ""
        comma, first = found.get("comma"), self.last in "{[" and not found.get("value")
        if self.levels[-1] == "[":
            return '"{[' if comma else ('"{[]' if first else "]")
        if self.last == "key" and not found.get("value"):
            return '"{['
        return '"' if comma else ('"}' if first else "}")

    def inside(self, text: str) -> None:
        """More of what a string contains."""
        text = self._escape + text
        matched = _TEXT.match(text)
        assert matched is not None
        self._escape = text[matched.end() :]
        if self._escape and not _ESCAPE_BEGUN.fullmatch(self._escape):
            raise ValueError(f"it is not valid JSON: unexpected {self._escape[:12]!r}")
        if matched.end():
            self.heard(_CONTROL.sub(_escaped, matched[0]))

    def ended(self) -> None:
        """The string is over."""
        if self._escape:
            raise ValueError(f"it is not valid JSON: unexpected {self._escape[:12]!r}")
        if self._is_key:
            self.last = "key"
        else:
            self._has_value()
        self.heard('"')

    def _has_value(self) -> None:
        self.last = f"in {self.levels[-1]}" if self.levels else "done"


def _escaped(found: re.Match[str]) -> str:
    return _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}"
