"""Finds a text in the bytes of successive tokens, even if it is split between them."""

from __future__ import annotations

__all__ = ("TextWatch",)


class TextWatch:
    """Waits for a text to appear in an answer. An empty text counts as found from the start."""

    __slots__ = ("_tail", "_text", "found")

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self._tail = b""
        self.found = not self._text

    def push(self, piece: bytes) -> bool:
        """Add a token's bytes; return whether the text has been found."""
        said = self._tail + piece
        self.found = self.found or self._text in said
        self._tail = said[-len(self._text) :]
        return self.found

    @property
    def missing(self) -> bytes:
        """The bytes that must come next to complete the text."""
        for length in range(min(len(self._tail), len(self._text) - 1), 0, -1):
            if self._tail.endswith(self._text[:length]):
                return self._text[length:]
        return self._text
