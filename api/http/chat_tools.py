"""Reads tools as OpenAI's API has them, and which of them the model may or must call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from corral.api.http.errors import ApiError
from corral.core.requests.messages import Tool
from corral.core.requests.tool_choice import ToolChoice, read_tool_choice

__all__ = ("chosen_tools", "read_tools")


def read_tools(given: Iterable[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """The functions. Raises `ApiError` 400 for a tool of another type, which nothing here could call."""
    return tuple(_tool(tool, f"tools[{place}]") for place, tool in enumerate(given))


def _tool(given: Mapping[str, Any], place: str) -> Tool:
    kind = given.get("type", "function")
    if kind != "function":
        raise ApiError(400, f'{place}: the type "{kind}" is not supported; use "function"', param=place)
    function = given.get("function", given)  # of responses, the fields of a function are the tool's own
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise ApiError(400, f"{place} has no name", param=place)
    description, parameters = function.get("description"), function.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise ApiError(400, f"{place}: parameters is not a JSON Schema object", param=place)
    return Tool(
        name=name,
        description=description if isinstance(description, str) else "",
        parameters=parameters or {},
        strict=function.get("strict") is True,
    )


def chosen_tools(tools: Sequence[Tool], choice: Any) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools that may be called, and whether one has to be. Raises `InvalidRequest` for a choice that is none.

    Besides the forms of `read_tool_choice`: ``allowed_tools``, which names some of the tools, and the form of
    responses, ``{"type": "function", "name": …}``.
    """
    if not isinstance(choice, dict):
        return tuple(tools), read_tool_choice(choice)
    if choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        entries = allowed.get("tools") if isinstance(allowed, dict) else None
        if not isinstance(entries, list):
            raise ApiError(400, "tool_choice: allowed_tools has no list of tools", param="tool_choice")
        names = [_name(entry) for entry in entries]
        return tuple(tool for tool in tools if tool.name in names), read_tool_choice(allowed.get("mode"))
    if choice.get("type", "function") == "function" and "function" not in choice and "name" in choice:
        choice = {"type": "function", "function": {"name": choice["name"]}}
    return tuple(tools), read_tool_choice(choice)


def _name(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return None
    function = entry.get("function")
    return function.get("name") if isinstance(function, dict) else entry.get("name")
