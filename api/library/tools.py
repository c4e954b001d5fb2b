"""The tools of a chat, as callers of the library write them: functions, dicts, or `Tool`s."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from corral.api.library.functions import FunctionTool
from corral.core.errors import InvalidRequest
from corral.core.requests.messages import Tool

__all__ = ("Tools", "to_tools")

Tools = Iterable[Callable[..., Any] | Mapping[str, Any] | Tool]

_EXAMPLE = 'a function, or {"type": "function", "function": {"name": …, "description": …, "parameters": {…}}}'


def to_tools(tools: Any) -> tuple[tuple[Tool, ...], dict[str, FunctionTool]]:
    """The tools, and those of them that are functions, by name. Raises `InvalidRequest`."""
    if tools is None:
        return (), {}
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Iterable):
        raise InvalidRequest(f"tools: expected a list, got {_shown(tools)}", f"each tool is {_EXAMPLE}")
    found: list[Tool] = []
    functions: dict[str, FunctionTool] = {}
    for tool in tools:
        if callable(tool) and not isinstance(tool, Tool | type):
            made = FunctionTool(tool)
            functions[made.tool.name] = made
            found.append(made.tool)
        else:
            found.append(_tool(tool))
    names = [tool.name for tool in found]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"tools: there are two tools with the name {name!r}")
    return tuple(found), functions


def _tool(tool: Any) -> Tool:
    if hasattr(tool, "model_dump"):  # as the official client of Ollama has them
        tool = tool.model_dump(exclude_none=True)
    if isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping):
        tool = tool["function"]
    if isinstance(tool, Mapping):
        tool = {key: value for key, value in tool.items() if key != "type"}
    fields = msgspec.structs.asdict(tool) if isinstance(tool, Tool) else tool
    try:
        return msgspec.convert(fields, Tool)
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidRequest(f"tools: invalid tool {_shown(tool)}: {error}", f"expected {_EXAMPLE}") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:60] + '…'}"
