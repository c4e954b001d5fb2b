"""The variables of Go templates, as Ollama names them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec

from corral.adapters.templates.go.encoding import json_text
from corral.adapters.templates.go.limits import Limits
from corral.adapters.templates.go.tools import AsText, go_value, tool_list
from corral.adapters.templates.go.values import GoMap, GoPointer, GoSlice, GoStruct
from corral.core.requests.messages import Message, Tool, ToolCall
from corral.core.requests.typed_text import TypedText

__all__ = ("Turn", "chat_variables", "fill_in_variables", "merged", "think_variables", "turn_variables", "turns")


class Turn(msgspec.Struct, frozen=True):
    """What a template without ``.Messages`` writes at a time: a question and its answer."""

    system: str = ""
    prompt: str = ""
    response: str = ""


def merged(messages: Sequence[Message]) -> list[Message]:
    """Consecutive messages of one role as one, their texts separated by a blank line; those of tools stay apart."""
    groups: list[list[Message]] = []
    for message in messages:
        if groups and groups[-1][0].role == message.role != "tool":
            groups[-1].append(message)
        else:
            groups.append([message])
    return [_as_one(group) if len(group) > 1 else group[0] for group in groups]


def _as_one(messages: Sequence[Message]) -> Message:
    return msgspec.structs.replace(
        messages[0],
        content="\n\n".join([message.content for message in messages]),
        thinking=next((message.thinking for message in messages if message.thinking), messages[-1].thinking),
        tool_calls=tuple(chain.from_iterable(message.tool_calls for message in messages)),
        images=tuple(chain.from_iterable(message.images for message in messages)),
    )


def turns(messages: Sequence[Message]) -> Iterator[Turn]:
    """The conversation in turns; the last one is to be answered."""
    turn = Turn()
    for message in messages:
        match message.role:
            case "system":
                if turn.prompt or turn.response:
                    yield turn
                    turn = Turn()
                turn = msgspec.structs.replace(turn, system=message.content)
            case "user":
                if turn.response:
                    yield turn
                    turn = Turn()
                turn = msgspec.structs.replace(turn, prompt=message.content)
            case "assistant":
                turn = msgspec.structs.replace(turn, response=message.content)
    yield turn


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
