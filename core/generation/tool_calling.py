"""What the tools of a chat mean for its answer: which of them may be called, and what holds the calls to it."""

from __future__ import annotations

import msgspec

from corral.core.errors import InvalidRequest, Unsupported
from corral.core.generation.parser_choice import ChosenParsers
from corral.core.models.view import ModelView
from corral.core.requests.calls import ChatCall
from corral.core.requests.messages import Tool
from corral.core.requests.requests import ChatRequest, Constraint
from corral.core.requests.tool_choice import ANY_CHOICE
from corral.core.wording.clipping import clipped

__all__ = ("constraint_on_calls", "settled_tools", "unheld_tools", "unread_calls")

_ANY_ARGUMENTS = {"type": "object"}


def settled_tools(call: ChatCall, view: ModelView) -> ChatCall:
    """The call with only the tools that may be called. Before loading.

    Raises `Unsupported` for a model without tools, and `InvalidRequest` for a choice that the tools do not allow.
    """
    choice = call.tool_choice
    if choice.mode == "none":
        return msgspec.structs.replace(call, tools=(), tool_choice=ANY_CHOICE)
    if call.tools and "tools" not in view.capabilities:
        raise Unsupported(f"{view.record.name.full} does not support tools")
    if choice.mode == "required":
        names = [tool.name for tool in call.tools]
        if not names:
            raise InvalidRequest('tool_choice: "required" needs tools', "send tools, or omit tool_choice")
        if choice.name is not None and choice.name not in names:
            known = clipped(", ".join(names), 200)
            raise InvalidRequest(
                f"tool_choice: there is no tool {clipped(choice.name, 100)!r}", f"the tools are {known}"
            )
        if call.constraint is not None:
            raise InvalidRequest(
                "format and tool_choice exclude each other: an answer that has to be a call has no other format",
                "omit one of them",
            )
    for tool in call.tools:
        if tool.strict and tool.parameters.get("type", "object") != "object":
            raise InvalidRequest(
                f"tools: the parameters of {clipped(tool.name, 100)!r} are not an object", 'use {"type": "object", …}'
            )
    return call


def constraint_on_calls(request: ChatRequest, chosen: ChosenParsers, *, able: bool) -> Constraint | None:
    """What holds the calls of an answer to the request, None if nothing has to.

    `able`: the engine can follow constraints. Raises `Unsupported` if a call is required that cannot be enforced.
    """
    required = request.tool_choice.mode == "required"
    if required and not able:
        raise Unsupported("tool_choice: this model's engine does not support constraints", 'use "auto" or "none"')
    if required and chosen.tool_calls is None:
        raise Unsupported("tool_choice: the way in which this model writes calls is unknown", 'use "auto" or "none"')
    held = required or any(tool.strict for tool in request.tools)
    if not held or not able or chosen.tool_calls is None or request.constraint is not None:
        return None
    name = request.tool_choice.name
    tools = [_held(tool) for tool in request.tools if name is None or tool.name == name]
    return Constraint(
        kind="lark", source=chosen.tool_calls.call_grammar(tools, chosen.rendered, required=required), subject="tools"
    )


def unheld_tools(request: ChatRequest, chosen: ChosenParsers, *, able: bool) -> tuple[str, ...]:
    """What the request asks of its calls and the answer may ignore, as in `Started.ignored_options`."""
    strict = any(tool.strict for tool in request.tools)
    return ("tools: strict",) if strict and (not able or chosen.tool_calls is None) else ()


def unread_calls(request: ChatRequest, chosen: ChosenParsers) -> tuple[str, ...]:
    """A warning if the answer's calls stay in its text."""
    if not request.tools or chosen.tool_calls is not None:
        return ()
    return ("tools: the way in which this model writes calls is unknown, so they stay in the text",)


def _held(tool: Tool) -> Tool:
    """The tool with the schema that its arguments are held to."""
    parameters = {"type": "object", **tool.parameters} if tool.strict else _ANY_ARGUMENTS
    return msgspec.structs.replace(tool, parameters=parameters)
