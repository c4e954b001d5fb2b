"""A request in the form of some API: a path, a body, and the names of the options that the API does not have."""

from __future__ import annotations

from typing import Any

import msgspec

from corral.core.errors import Unsupported
from corral.core.requests.messages import Tool
from corral.core.requests.prompts import Prompt, TextPart
from corral.core.requests.requests import Constraint
from corral.core.requests.tool_choice import ToolChoice
from corral.core.values import Value

__all__ = ("Exchange", "format_of", "plain_text", "schema_of", "tool_choice_entry", "tool_entry")


class Exchange(Value, frozen=True, kw_only=True):
    """`logprobs` is as in the request; the answer is cut to that number of alternatives."""

    path: str
    body: dict[str, Any]
    ignored: tuple[str, ...] = ()
    logprobs: int | None = None


def plain_text(prompt: Prompt) -> str:
    """Raises `Unsupported` for token ids, which mean nothing to another server, and for images."""
    texts = [part.text for part in prompt if isinstance(part, TextPart)]
    if len(texts) != len(prompt):
        raise Unsupported("an upstream accepts text, but no token ids, and images only in chats")
    return "".join(texts)


def tool_entry(tool: Tool) -> dict[str, Any]:
    """A tool as OpenAI and Ollama both write it."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function | ({"strict": True} if tool.strict else {})}


def tool_choice_entry(choice: ToolChoice) -> dict[str, Any]:
    """The field `tool_choice` as OpenAI and Corral have it, unless the choice is the default."""
    if choice.name is not None:
        return {"tool_choice": {"type": "function", "function": {"name": choice.name}}}
    return {} if choice.mode == "auto" else {"tool_choice": choice.mode}


def format_of(constraint: Constraint) -> Any:
    """A constraint as Corral's `format`."""
    if constraint.kind == "json_schema":
        return schema_of(constraint)
    if constraint.kind == "choice":
        return {"type": "choice", "choices": msgspec.json.decode(constraint.source)}
    return {"type": constraint.kind, "pattern" if constraint.kind == "regex" else "grammar": constraint.source}


def schema_of(constraint: Constraint) -> Any:
    """The JSON Schema of a constraint. Raises `Unsupported` for other kinds of constraints."""
    if constraint.kind != "json_schema":
        raise Unsupported(
            f"this upstream does not support constraints of the kind {constraint.kind!r}",
            "use a JSON schema, or omit it",
        )
    return msgspec.json.decode(constraint.source)
