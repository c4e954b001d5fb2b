"""The variables of Go templates, as Ollama names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corral.adapters.templates.go.encoding import json_text
from corral.adapters.templates.go.limits import Limits
from corral.adapters.templates.go.tools import AsText, go_value, tool_list
from corral.adapters.templates.go.values import GoMap, GoPointer, GoSlice, GoStruct
from corral.core.requests.messages import Message, Tool, ToolCall
from corral.core.requests.turns import Turn
from corral.core.requests.typed_text import TypedText

__all__ = ("chat_variables", "fill_in_variables", "think_variables", "turn_variables")


def think_variables(think: bool | str | None) -> dict[str, Any]:
    level = think if isinstance(think, str) else "medium" if think else ""
    return {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}


def chat_variables(
    messages: Sequence[Message], tools: Sequence[Tool], think: bool | str | None, limits: Limits, typed: TypedText
) -> GoMap:
    """For templates with ``.Messages``. `messages` and `tools` are marked."""

    def as_text(value: Any) -> str:
        return typed.text(json_text(value, limits))

    system = "\n\n".join([message.content for message in messages if message.role == "system"])
    return _data({
        "System": system,
        "Messages": GoSlice("[]*template.templateMessage", [_message(message, as_text) for message in messages]),
        "Tools": tool_list(tools, as_text),
        "Response": "",
        **think_variables(think),
    })  # fmt: skip


def turn_variables(turn: Turn, think: bool | str | None) -> GoMap:
    """For a turn of a template without ``.Messages``."""
    texts = {"System": turn.system, "Prompt": turn.prompt, "Response": turn.response}
    return _data({**texts, **think_variables(think)})


def fill_in_variables(prompt: str, suffix: str, think: bool | str | None) -> GoMap:
    """For text between a prompt and a suffix."""
    return _data({"Prompt": prompt, "Suffix": suffix, "Response": "", **think_variables(think)})


def _data(variables: dict[str, Any]) -> GoMap:
    return GoMap("map[string]interface {}", variables)


def _message(message: Message, as_text: AsText) -> GoPointer:
    images = [GoSlice("api.ImageData", image) for image in message.images] or None
    calls = [_call(call, as_text) for call in message.tool_calls] or None
    fields = {
        "Role": message.role,
        "Content": message.content,
        "Thinking": message.thinking or "",
        "Images": GoSlice("[]api.ImageData", images),
        "ToolCalls": GoSlice("[]template.templateToolCall", calls),
        "ToolName": message.tool_name or "",
        "ToolCallID": message.tool_call_id or "",
    }
    return GoPointer("*template.templateMessage", GoStruct("template.templateMessage", fields))


def _call(call: ToolCall, as_text: AsText) -> GoStruct:
    decoded = go_value(call.arguments)
    arguments = GoMap("template.templateArgs", decoded.entries, decoded.labels, as_text=as_text)
    function = {"Index": call.index, "Name": call.name, "Arguments": arguments}
    return GoStruct(
        "template.templateToolCall",
        {"ID": call.id or "", "Function": GoStruct("template.templateToolCallFunction", function)},
    )
