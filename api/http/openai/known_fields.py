"""Which fields of a request have an effect here, down to the parts of messages; all others are named to the client."""

from __future__ import annotations

from corral.api.http.openai.bodies import AnswerBody, ChatCompletionBody
from corral.api.http.remarks import ByType, Fields, unused_fields

__all__ = ("CHOICE", "FUNCTION_FIELDS", "PARTS", "SCHEMA", "ignored_fields")

_TEXT: Fields = {"type": None, "text": None}
PARTS = ByType(
    {
        "text": _TEXT,
        "input_text": _TEXT,
        "output_text": _TEXT,
        "refusal": {"type": None, "refusal": None},
        "image_url": {"type": None, "image_url": {"url": None}},
        "input_image": {"type": None, "image_url": {"url": None}},
        "input_audio": {"type": None, "input_audio": {"data": None, "format": None}},
    }
)
_FUNCTION: Fields = {"name": None, "arguments": None}
_MESSAGE: Fields = {
    "role": None,
    "content": PARTS,
    "refusal": None,
    "reasoning": None,
    "reasoning_content": None,
    "tool_calls": {"id": None, "type": None, "index": None, "function": _FUNCTION},
    "tool_call_id": None,
    "function_call": _FUNCTION,
}
_RESULT: Fields = {**_MESSAGE, "name": None}
_RESULT_ROLES = ("tool", "function")
SCHEMA: Fields = {"name": None, "schema": None, "strict": None}
_FORMAT: Fields = {"type": None, "json_schema": SCHEMA, "grammar": None, "pattern": None, "choices": None, **SCHEMA}
FUNCTION_FIELDS: Fields = {"name": None, "description": None, "parameters": None, "strict": None}
_TOOL: Fields = {"type": None, "function": FUNCTION_FIELDS, **FUNCTION_FIELDS}
_NAMED: Fields = {"name": None}
_ALLOWED: Fields = {"mode": None, "tools": {"type": None, "name": None, "function": _NAMED}}
CHOICE: Fields = {"type": None, "name": None, "function": _NAMED, "allowed_tools": _ALLOWED, **_ALLOWED}


def ignored_fields(body: AnswerBody) -> tuple[str, ...]:
    """The fields of the request that have no effect, by their paths."""
    found = dict.fromkeys(body.unknown)
    found |= unused_fields(body.stream_options, {"include_usage": None}, "stream_options")
    if isinstance(body, ChatCompletionBody):
        for message in body.messages:
            role = message.get("role")
            known = _RESULT if isinstance(role, str) and role.lower() in _RESULT_ROLES else _MESSAGE
            found |= unused_fields(message, known, "messages")
        found |= unused_fields(body.response_format, _FORMAT, "response_format")
        found |= unused_fields(body.tools, _TOOL, "tools")
        found |= unused_fields(body.tool_choice, CHOICE, "tool_choice")
        found |= unused_fields(body.reasoning, {"effort": None}, "reasoning")
    return tuple(found)
