"""Counts the tokens of an answer's thinking, which the APIs of several vendors report apart."""

from __future__ import annotations

from corral.core.requests.outputs import Delta

__all__ = ("ThinkingTokens",)


class ThinkingTokens:
    """Of the deltas heard so far. Tokens that show nothing yet belong to the thinking, if it has begun."""

    __slots__ = ("_thought", "_visible", "count")

    def __init__(self) -> None:
        self._thought = False
        self._visible = False
        self.count = 0

    def hear(self, delta: Delta) -> None:
        self._thought = self._thought or bool(delta.thinking)
        self._visible = self._visible or bool(delta.text or delta.tool_calls or delta.tool_call_pieces)
        if delta.thinking or (self._thought and not self._visible):
            self.count += delta.token_count
