"""Tools, their calls and their results as Jinja templates expect them: mostly, in the shape of OpenAI's API."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from corral.core.errors import InvalidRequest
from corral.core.requests.messages import Message, Tool
from corral.core.values import Value

__all__ = ("ToolSpelling", "message_variables", "probed_spelling", "tool_variables", "with_named_ids")

_SHORT_ID = 9
_PROBE_ID, _LONG_ID = "a" * _SHORT_ID, "call_" + "a" * 8
_KEY, _NAME = "corral_probe", "corral_called"
_NAMED_ID = re.compile(r"functions\..+:\d+")


class ToolSpelling(Value, frozen=True, kw_only=True):
    """What differs between templates: arguments as JSON text instead of objects, ids of exactly nine characters, or ids
    that stand for names, such as ``functions.name:0``.
    """

    text_arguments: bool = False
    short_ids: bool = False
    named_ids: bool = False


def probed_spelling(run: Callable[[Mapping[str, Any]], str]) -> ToolSpelling:
    """Finds out what a template expects, by rendering a conversation. `run` raises `InvalidRequest` if that fails."""

    def rendered(id: str, spelling: ToolSpelling) -> str | None:
        function = {"name": _NAME, "arguments": _arguments({_KEY: "x"}, spelling)}
        call = {"type": "function", "id": id, "function": function}
        messages = [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "r", "name": "f", "tool_call_id": id},
        ]
        try:
            return run({"messages": messages, "tools": [tool_variables(Tool(name="f"))]})
        except InvalidRequest:
            return None

    objects, texts = ToolSpelling(), ToolSpelling(text_arguments=True)
    text = rendered(_PROBE_ID, objects)
    spelling = objects
    if text is None or f"'{_KEY}'" in text:  # it joins texts, or writes Python's form of the object
        as_text = rendered(_PROBE_ID, texts)
        if as_text is not None and f'"{_KEY}"' in as_text:
            text, spelling = as_text, texts
    short = text is not None and rendered(_LONG_ID, spelling) is None
    named = text is not None and _NAME not in text and _KEY in text and _PROBE_ID in text
    return ToolSpelling(text_arguments=spelling.text_arguments, short_ids=short, named_ids=named)


def with_named_ids(messages: Iterable[Message]) -> list[Message]:
    """The messages, in which the ids of calls and results contain the tool's name, and the number of the call."""
    named: list[Message] = []
    ids: dict[str | None, str] = {}
    count = 0
    for message in messages:
        calls = []
        for call in message.tool_calls:
            own = call.id is not None and _NAMED_ID.fullmatch(call.id) is not None
            ids[call.id] = str(call.id) if own else f"functions.{call.name}:{count}"
            calls.append(msgspec.structs.replace(call, id=ids[call.id]))
            count += 1
        answered = ids.get(message.tool_call_id, message.tool_call_id)
        named.append(msgspec.structs.replace(message, tool_calls=tuple(calls), tool_call_id=answered))
    return named


def message_variables(message: Message, spelling: ToolSpelling) -> dict[str, Any]:
    """A message as templates read it, with thinking under both of its usual names."""
    variables: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking is not None:
        variables["thinking"] = variables["reasoning_content"] = message.thinking
    if message.tool_calls:
        variables["tool_calls"] = [
            {
                "type": "function",
                "id": _id(call.id, spelling),
                "function": {"name": call.name, "arguments": _arguments(call.arguments, spelling)},
            }
            for call in message.tool_calls
        ]
    if message.tool_name is not None:
        variables["name"] = message.tool_name
    if message.tool_call_id is not None:
        variables["tool_call_id"] = _id(message.tool_call_id, spelling)
    return variables


def tool_variables(tool: Tool) -> dict[str, Any]:
    """A tool as templates read it."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _arguments(arguments: Mapping[str, Any], spelling: ToolSpelling) -> Any:
    return json.dumps(arguments, ensure_ascii=False) if spelling.text_arguments else arguments


def _id(id: str | None, spelling: ToolSpelling) -> str | None:
    """The id, or nine characters that stand for it: the templates of Mistral refuse all others."""
    if id is None or not spelling.short_ids or (len(id) == _SHORT_ID and id.isascii() and id.isalnum()):
        return id
    return hashlib.sha256(id.encode()).hexdigest()[:_SHORT_ID]
