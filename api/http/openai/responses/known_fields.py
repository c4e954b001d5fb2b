"""Which fields within a request for a response have an effect here; all others are named to the client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corral.api.http.openai.known_fields import CHOICE, FUNCTION_FIELDS, PARTS, SCHEMA
from corral.api.http.remarks import ByType, Fields, unused_fields

__all__ = ("ignored_inside",)

_ITEM: Fields = {"type": None, "id": None, "status": None}
_ITEMS = ByType(
    {
        "message": {**_ITEM, "role": None, "content": PARTS},
        "function_call": {**_ITEM, "call_id": None, "namespace": None, "name": None, "arguments": None},
        "function_call_output": {**_ITEM, "call_id": None, "namespace": None, "name": None, "output": PARTS},
        "reasoning": {**_ITEM, "summary": None, "content": None, "encrypted_content": None},
        "web_search_call": {**_ITEM, "action": None, "results": None},
    },
    default="message",
)
_FUNCTION: Fields = {"type": None, **FUNCTION_FIELDS}
_SEARCH: Fields = {
    "type": None,
    "filters": {"allowed_domains": None},
    "search_context_size": None,
    "external_web_access": None,
}
_TOOLS = ByType(
    {
        "function": _FUNCTION,
        "namespace": {"type": None, "name": None, "tools": _FUNCTION},
        "web_search": _SEARCH,
        "web_search_2025_08_26": _SEARCH,
        "web_search_preview": _SEARCH,
        "web_search_preview_2025_03_11": _SEARCH,
    },
    default="function",
)
_KNOWN: Mapping[str, Fields | ByType] = {
    "reasoning": {"effort": None, "summary": None, "generate_summary": None},
    "text": {"format": {"type": None, "grammar": None, "pattern": None, "choices": None, **SCHEMA}},
    "input": _ITEMS,
    "tools": _TOOLS,
    "tool_choice": CHOICE,
    "stream_options": {},
}


def ignored_inside(request: Any) -> tuple[str, ...]:
    """The paths of what has no effect inside of fields that have. `request` has the fields as attributes."""
    found: dict[str, None] = {}
    for name, known in _KNOWN.items():
        found |= unused_fields(getattr(request, name), known, name)
    return tuple(found)
