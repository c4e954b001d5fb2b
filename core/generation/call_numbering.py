"""Gives the tool calls of one answer their places and ids, and pieces to those that have none."""

from __future__ import annotations

import secrets
import string

import msgspec

from corral.core.errors import PluginError
from corral.core.generation.call_errors import BrokenToolCall
from corral.core.requests.outputs import Delta, ToolCallPiece

__all__ = ("CallNumbering",)

_ID_CHARS = string.ascii_lowercase + string.digits
_encode = msgspec.json.Encoder().encode


class CallNumbering:
    """Numbers the calls in the deltas of one answer. With `in_pieces`, each of them also comes in pieces."""

    def __init__(self, *, in_pieces: bool = False) -> None:
        self._in_pieces = in_pieces
        self._count = 0
        self._begun: ToolCallPiece | None = None

    def __call__(self, delta: Delta) -> Delta:
        """The delta with numbers. Raises `BrokenToolCall` if a call that was begun has turned out to be none, and
        `PluginError` for more of a call that was not begun.
        """
        pieces = list(map(self._piece, delta.tool_call_pieces))
        calls = []
        for call in delta.tool_calls:
            begun, self._begun = self._begun, None
            if begun is None:
                begun = self._opened(ToolCallPiece(name=call.name, id=call.id))
                if self._in_pieces:
                    arguments = _encode(call.arguments).decode()
                    pieces.append(msgspec.structs.replace(begun, arguments=arguments))
            calls.append(msgspec.structs.replace(call, index=begun.index, id=begun.id))
        return msgspec.structs.replace(delta, tool_call_pieces=tuple(pieces), tool_calls=tuple(calls))

    def at_limit(self, delta: Delta) -> Delta:
        """The same for a delta that came because the answer reached its limit: a call that was begun just ends."""
        cut = [piece for piece in delta.tool_call_pieces if piece.problem]
        whole = tuple(piece for piece in delta.tool_call_pieces if not piece.problem)
        warnings = tuple(f"a tool call is incomplete: {piece.problem}" for piece in cut)
        delta = msgspec.structs.replace(delta, tool_call_pieces=whole, warnings=delta.warnings + warnings)
        return self(delta)

    def _piece(self, piece: ToolCallPiece) -> ToolCallPiece:
        if piece.name:
            self._begun = self._opened(piece)
            return self._begun
        if self._begun is None:
            raise PluginError("an answer parser reported a piece of a tool call before its name")
        if piece.problem:
            raise BrokenToolCall(
                f"the model's call of {self._begun.name!r} cannot be completed: {piece.problem}",
                'send the request again; with "stream": false, such a call is left in the text',
            )
        return msgspec.structs.replace(piece, index=self._begun.index, id=self._begun.id)

    def _opened(self, piece: ToolCallPiece) -> ToolCallPiece:
        self._count += 1
        return msgspec.structs.replace(piece, index=self._count - 1, id=piece.id or _new_id())


def _new_id() -> str:
    return "call_" + "".join(secrets.choice(_ID_CHARS) for _ in range(8))
