"""Marks around typed control tokens on their way through a template.

They are Unicode noncharacters, which no text may contain.
"""

from __future__ import annotations

import re

from corral.core.requests.control_tokens import ControlTokens
from corral.core.requests.prompts import TextPart

__all__ = ("has_marks", "marked", "marked_tokens", "parts_of", "without_escapes")

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_UNMARK = {ord(_OPEN): None, ord(_CLOSE): None}
# As themselves, or as `repr` within a format spells them.
_MARKED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}|\\\\ufdd0((?:(?!\\\\ufdd)[^{_OPEN}{_CLOSE}])*)\\\\ufdd1")
_ESCAPED = re.compile(r"(?<!\\)((?:\\\\)*)\\u(fdd[01])")


def marked(text: str) -> str:
    """The whole text between marks."""
    return f"{_OPEN}{text.translate(_UNMARK)}{_CLOSE}"


def marked_tokens(text: str, control: ControlTokens, spared: frozenset[str] = frozenset()) -> str:
    """The text with marks around every control token but the `spared`; marks that were typed are gone."""
    if _OPEN in text or _CLOSE in text:
        text = text.translate(_UNMARK)
    return control.replace(text, lambda found: found[0] if found[0] in spared else f"{_OPEN}{found[0]}{_CLOSE}")


def has_marks(text: str) -> bool:
    return _OPEN in text


def without_escapes(text: str) -> str:
    """What `repr` or an ASCII encoder made of a text, with the marks as themselves again."""
    if "\\ufdd" not in text:
        return text
    return _ESCAPED.sub(lambda found: found[1] + chr(int(found[2], 16)), text)


def parts_of(text: str, control: ControlTokens) -> list[TextPart]:
    """A rendered prompt's parts: marked stretches are content. A mark whose partner was cut off is just dropped."""
    parts: list[TextPart] = []
    position = 0
    for match in _MARKED.finditer(text):
        content = match[1]
        if content is None:
            if not control.is_one(match[2]):  # typed as it stands
                continue
            content = match[2]
        parts.append(TextPart(text=text[position : match.start()].translate(_UNMARK), parse_special=True))
        parts.append(TextPart(text=content))
        position = match.end()
    parts.append(TextPart(text=text[position:].translate(_UNMARK), parse_special=True))
    return parts
