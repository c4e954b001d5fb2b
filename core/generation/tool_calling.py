"""What the tools of a chat mean for its answer: which of them may be called, and what holds the calls to it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from corral.core.errors import InvalidRequest, Unsupported
from corral.core.generation.parser_choice import ChosenParsers
from corral.core.generation.refusals import require_capability
from corral.core.models.view import ModelView
from corral.core.requests.calls import ChatCall
from corral.core.requests.messages import Tool
from corral.core.requests.requests import ChatRequest, Constraint
from corral.core.requests.tool_choice import ANY_CHOICE
from corral.core.wording.clipping import clipped

__all__ = ("HeldCalls", "held_calls", "settled_tools")

_ANY_ARGUMENTS = {"type": "object"}
_MOST_UNASKED_CHARS = 16 << 10
_UNREAD = "tools: the way in which this model writes calls is unknown, so they stay in the text"


def settled_tools(call: ChatCall, view: ModelView) -> ChatCall:
    """The call with only the tools that may be called. Before loading.

    Raises `Unsupported` for a model without tools, and `InvalidRequest` for a choice that the tools do not allow.
    """
    choice = call.tool_choice
    if choice.mode == "none":
        return msgspec.structs.replace(call, tools=(), tool_choice=ANY_CHOICE)
    if call.tools:
        require_capability(view.record, view.capabilities, "tools")
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


class HeldCalls(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose constraint holds its calls; what it asks of them and the answer may ignore; and warnings."""

    request: ChatRequest
    ignored: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def held_calls(request: ChatRequest, chosen: ChosenParsers, *, able: bool) -> HeldCalls:
    """`able`: the engine can follow constraints. Raises `Unsupported` if a call is required that cannot be enforced."""
    if not request.tools:
        return HeldCalls(request=request)
    strict = any(tool.strict for tool in request.tools)
    required = request.tool_choice.mode == "required"
    if required and not able:
        raise Unsupported("tool_choice: this model's engine does not support constraints", 'use "auto" or "none"')
    if required and chosen.tool_calls is None:
        raise Unsupported("tool_choice: the way in which this model writes calls is unknown", 'use "auto" or "none"')
    if chosen.tool_calls is None or not able:
        unread = chosen.tool_calls is None
        return HeldCalls(request=request, ignored=("tools: strict",) * strict, warnings=(_UNREAD,) * unread)
    if not (required or strict):
        return HeldCalls(request=request)
    name = request.tool_choice.name
    tools = _held([tool for tool in request.tools if name is None or tool.name == name], required=required)
    # Beside a format, an answer has either the format, or consists of calls.
    calls_alone = required or request.constraint is not None
    grammar = chosen.tool_calls.call_grammar(tools, chosen.rendered, required=calls_alone)
    constraint = Constraint(kind="lark", source=grammar, subject="tools", complete=calls_alone)
    if request.constraint is not None:
        constraint = msgspec.structs.replace(request.constraint, alternative=constraint)
    return HeldCalls(request=msgspec.structs.replace(request, constraint=constraint))


def _held(tools: Sequence[Tool], *, required: bool) -> list[Tool]:
    """The tools with the schemas that their arguments are held to.

    A required call is held to its schema even if that is not asked for, unless this would take a huge grammar: small
    models would fill in anything.
    """
    left = _MOST_UNASKED_CHARS if required else 0
    held = []
    for tool in tools:
        size = len(msgspec.json.encode(tool.parameters))
        asked = tool.strict or (size <= left and tool.parameters.get("type", "object") == "object")
        left -= 0 if tool.strict or not asked else size
        parameters = {"type": "object", **tool.parameters} if asked else _ANY_ARGUMENTS
        held.append(msgspec.structs.replace(tool, parameters=parameters))
    return held
