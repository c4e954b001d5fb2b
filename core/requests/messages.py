"""What chats consist of: messages, tools, tool calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corral.core.values import Value

__all__ = ("Message", "Tool", "ToolCall")


class ToolCall(Value, frozen=True, kw_only=True):
    """One call that the model asks for. `arguments` is the decoded JSON object, in its original key order."""

    name: str
    arguments: Mapping[str, Any] = {}
    id: str | None = None
    index: int = 0


class Tool(Value, frozen=True, kw_only=True):
    """A function the model may call; `parameters` is a JSON Schema object.

    With `strict`, the arguments of a call are held to that schema while the model writes them.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = {}
    strict: bool = False


class Message(Value, frozen=True, kw_only=True):
    """One turn. `role` is lower case; ``system``, ``user``, ``assistant`` and ``tool`` are the usual ones.

    `images` are the contents of image or sound files, in the order in which the text refers to them.
    """

    role: str
    content: str = ""
    images: tuple[bytes, ...] = ()
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str | None = None
    tool_call_id: str | None = None
