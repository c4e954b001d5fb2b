"""How an answer may fail because of a tool call in it."""

from __future__ import annotations

from corral.core.error_base import CorralError

__all__ = ("BrokenToolCall",)


class BrokenToolCall(CorralError):
    """The model began a call, the caller has pieces of it, and it cannot be completed."""

    code = "broken_tool_call"
