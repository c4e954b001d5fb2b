"""Divides the deltas of an answer into pieces, for APIs whose answers consist of blocks or items of one kind each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Delta, ToolCallPiece

__all__ = ("AnswerPieces",)

CallT = TypeVar("CallT", ToolCall, ToolCallPiece)


class AnswerPieces:
    """The pieces of one answer. A block of nothing but space is none: clients may not send it back."""

    def __init__(self) -> None:
        self._kind = ""
        self.space = ""
        """Space that was held back because nothing has followed it yet."""

    def of(self, delta: Delta, calls: Sequence[CallT]) -> list[tuple[str, str | CallT]]:
        """The kind of each piece's block (``thinking``, ``text``, ``tool_use``), and more of its text, or one of the
        delta's `calls`, whole or in pieces."""
        pieces: list[tuple[str, str | CallT]] = []
        for kind, text in (("thinking", delta.thinking), ("text", delta.text)):
            if not text:
                continue
            if self._kind != kind and kind == "text":
                text = self.space + text
                self.space = text if text.isspace() else ""
                if self.space:
                    continue
            self._kind = kind
            pieces.append((kind, text))
        for call in calls:
            self._kind, self.space = "tool_use", ""
            pieces.append(("tool_use", call))
        return pieces

    def interrupted(self) -> None:
        """Something else comes between what was said and what follows."""
        self._kind, self.space = "", ""
