"""Finds a text among the bytes of tokens, wherever it is cut."""

from __future__ import annotations

__all__ = ("TextWatch",)


class TextWatch:
    """Waits for one text to appear in an answer. An empty text has appeared at once."""

    __slots__ = ("_tail", "_text", "found")

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        self._tail = b""
        self.found = not self._text

    def push(self, piece: bytes) -> bool:
        """Whether the text has appeared by the end of this token's bytes."""
        said = self._tail + piece
        self.found = self.found or self._text in said
        self._tail = said[-len(self._text) :]
        return self.found

    @property
    def missing(self) -> bytes:
        """What would have to come next for the text to be complete."""
        for length in range(min(len(self._tail), len(self._text) - 1), 0, -1):
            if self._tail.endswith(self._text[:length]):
                return self._text[length:]
        return self._text
