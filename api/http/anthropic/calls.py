"""What the fields of a request mean for Corral: options, tools, thinking, formats."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from corral.api.http.anthropic.bodies import CountTokensBody, MessagesBody
from corral.api.http.anthropic.web_tools import web_tool_of
from corral.api.http.errors import ApiError
from corral.core.requests.answer_format import read_format
from corral.core.requests.messages import Tool
from corral.core.requests.requests import Constraint
from corral.core.requests.tool_choice import ANY_CHOICE, ToolChoice

__all__ = ("choice_of", "format_of", "is_parallel", "options_of", "read_tools", "think_of")

_EFFORTS: Mapping[str, str] = {"low": "low", "medium": "medium", "high": "high", "xhigh": "max", "max": "max"}


def options_of(body: CountTokensBody) -> dict[str, Any]:
    """The options of the request. What it does not set stays as the model has it, and comes before its `options`."""
    own: dict[str, Any] = {}
    if isinstance(body, MessagesBody):
        own = {
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
            "num_predict": body.max_tokens,
            "stop": list(body.stop_sequences) or None,
        }
    thinking = body.thinking or {}
    if thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens")
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 1):
            raise ApiError(400, "thinking.budget_tokens must be a positive integer", param="thinking")
        own["thinking_budget"] = budget
    return {**body.options, **{name: value for name, value in own.items() if value is not None}}


def think_of(body: CountTokensBody) -> bool | str | None:
    """Whether the model thinks, or how hard; None leaves it to the model. Raises `ApiError` 400."""
    kind = (body.thinking or {}).get("type")
    if kind not in (None, "enabled", "disabled", "adaptive"):
        known = '"enabled", "disabled" or "adaptive"'
        raise ApiError(400, f"thinking.type must be {known}, not {json.dumps(kind)}", param="thinking")
    if kind == "disabled":
        return False
    effort = body.output_config.get("effort")
    if effort is not None:
        if not isinstance(effort, str) or effort not in _EFFORTS:
            known = ", ".join(f'"{name}"' for name in _EFFORTS)
            raise ApiError(400, f"output_config.effort must be one of {known}", param="output_config")
        return _EFFORTS[effort]
    return True if kind == "enabled" else None


def format_of(body: CountTokensBody) -> Constraint | None:
    """What the answer must follow. Raises `ApiError` 400 and what `read_format` raises."""
    given = body.output_config.get("format")
    if given is None:
        return None
    schema = given.get("schema") if isinstance(given, dict) else None
    if not isinstance(given, dict) or given.get("type") != "json_schema" or not isinstance(schema, dict):
        raise ApiError(
            400, 'output_config.format must be {"type": "json_schema", "schema": {…}}', param="output_config"
        )
    return read_format(schema)


def read_tools(given: Sequence[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """The tools that the client calls itself, without those of the web. Raises `ApiError` 400 for others
    that only Anthropic's servers have.
    """
    return tuple(_tool(tool, f"tools[{place}]") for place, tool in enumerate(given) if web_tool_of(tool) is None)


def _tool(given: Mapping[str, Any], at: str) -> Tool:
    kind, name = given.get("type"), given.get("name")
    if kind not in (None, "custom"):
        raise ApiError(
            400, f"{at}: tools of the type {json.dumps(kind)} are not supported; give it an input_schema", param=at
        )
    if not isinstance(name, str) or not name:
        raise ApiError(400, f"{at} has no name", param=at)
    schema, description = given.get("input_schema"), given.get("description")
    if not isinstance(schema, dict):
        raise ApiError(400, f'invalid input_schema for tool "{name}": it is not a JSON Schema object', param=at)
    return Tool(
        name=name,
        description=description if isinstance(description, str) else "",
        parameters=schema,
        strict=given.get("strict") is True,
    )


def choice_of(body: CountTokensBody) -> ToolChoice:
    """Whether the model has to call a tool. Raises `ApiError` 400."""
    given = body.tool_choice
    kind = "auto" if given is None else given.get("type")
    if kind in ("auto", "none"):
        return ANY_CHOICE if kind == "auto" else ToolChoice(mode="none")
    if kind == "any":
        return ToolChoice(mode="required")
    name = (given or {}).get("name")
    if kind == "tool" and isinstance(name, str) and name:
        return ToolChoice(mode="required", name=name)
    expected = '{"type": "auto" | "any" | "none"} or {"type": "tool", "name": "…"}'
    raise ApiError(400, f"invalid tool_choice; expected {expected}", param="tool_choice")


def is_parallel(body: CountTokensBody) -> bool:
    """Whether the model may call several tools in one answer."""
    return (body.tool_choice or {}).get("disable_parallel_tool_use") is not True
