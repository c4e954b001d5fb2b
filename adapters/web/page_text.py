"""The text of a page, put together from its elements: paragraphs, headings, lists, tables, code."""

from __future__ import annotations

import re
from typing import Final

__all__ = ("LONGEST_TEXT", "PageText")

LONGEST_TEXT: Final = 200_000
"""How many characters of a page's text are kept."""

_PARAGRAPHS: Final = frozenset(
    [
        "address",
        "article",
        "blockquote",
        "body",
        "center",
        "dd",
        "details",
        "dl",
        "dt",
        "div",
        "fieldset",
        "figcaption",
        "figure",
        "form",
        "header",
        "hr",
        "main",
        "ol",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "ul",
    ]
)
_LINES: Final = frozenset(("li", "tr", "caption", "br"))
_HEADINGS: Final = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_CELLS: Final = frozenset(("td", "th"))
_SPACES = re.compile(r"[ \t\n\r\f\v\u00a0]+")
_MANY_BREAKS = re.compile(r"\n{3,}")
_TRAILING = re.compile(r"[ |]+\n")


class PageText:
    """Takes the elements and texts of a page in their order; `finished` is its text, cut at `LONGEST_TEXT`."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._verbatim = 0

    def begin(self, tag: str) -> None:
        if tag in _HEADINGS:
            self._put(f"\n\n{_HEADINGS[tag]}")
        elif tag in _PARAGRAPHS:
            self._put("\n\n")
        elif tag in _LINES:
            self._put("\n- " if tag == "li" else "\n")
        self._verbatim += tag == "pre"

    def end(self, tag: str) -> None:
        self._verbatim -= tag == "pre"
        if tag in _HEADINGS or tag in _PARAGRAPHS:
            self._put("\n\n")
        elif tag in _CELLS:
            self._put(" | ")

    def add(self, text: str) -> None:
        """Text between tags: runs of spaces become one, except in ``<pre>``."""
        if not self._verbatim:
            text = _SPACES.sub(" ", text)
            if text.startswith(" ") and (not self._parts or self._parts[-1][-1:] in ("", " ", "\n")):
                text = text[1:]
        self._put(text)

    def finished(self) -> str:
        text = _TRAILING.sub("\n", "".join(self._parts))
        return _MANY_BREAKS.sub("\n\n", text).strip(" |\n")[:LONGEST_TEXT]

    def _put(self, text: str) -> None:
        if text and self._length <= LONGEST_TEXT * 2:  # line breaks that are joined later count here
            self._parts.append(text)
            self._length += len(text)
