"""Which fields of a request have an effect here, down to blocks within blocks; all others are named to the client."""

from __future__ import annotations

from collections.abc import Mapping

from corral.api.http.anthropic.bodies import CountTokensBody
from corral.api.http.anthropic.web_tools import web_tool_of
from corral.api.http.remarks import ByType, Fields, unused_fields
from corral.core.generation.web_fetch import WEB_FETCH
from corral.core.generation.web_search import WEB_SEARCH

__all__ = ("ignored_fields",)

_BLOCK: Fields = {"type": None, "cache_control": None}
_CALL: Fields = {**_BLOCK, "id": None, "name": None, "input": None}
_SOURCE: Fields = {"type": None, "media_type": None, "data": None}
_FOUND: Fields = {"type": None, "title": None, "url": None, "encrypted_content": None, "error_code": None}
_FETCHED: Fields = {
    "type": None,
    "url": None,
    "retrieved_at": None,
    "error_code": None,
    "content": {"type": None, "title": None, "source": _SOURCE, "cache_control": None},
}
_blocks: dict[str, Fields] = {
    "text": {**_BLOCK, "text": None},
    "image": {**_BLOCK, "source": _SOURCE},
    "thinking": {"type": None, "thinking": None, "signature": None},
    "redacted_thinking": {"type": None},
    "tool_use": _CALL,
    "server_tool_use": _CALL,
    "web_search_tool_result": {**_BLOCK, "tool_use_id": None, "content": _FOUND},
    "web_fetch_tool_result": {**_BLOCK, "tool_use_id": None, "content": _FETCHED},
}
_BLOCKS = ByType(_blocks)
_blocks["document"] = {**_BLOCK, "title": None, "context": None, "source": {**_SOURCE, "content": _BLOCKS}}
_blocks["search_result"] = {**_BLOCK, "title": None, "source": None, "content": _BLOCKS}
_blocks["tool_result"] = {**_BLOCK, "tool_use_id": None, "is_error": None, "content": _BLOCKS}

_TOOL: Fields = {
    **_BLOCK,
    "name": None,
    "description": None,
    "input_schema": None,
    "strict": None,
    "eager_input_streaming": None,
}
_WEB_SEARCH: Fields = {
    **_BLOCK,
    "name": None,
    "strict": None,
    "max_uses": None,
    "allowed_domains": None,
    "blocked_domains": None,
}
_TOOLS: Mapping[str, Fields] = {WEB_SEARCH: _WEB_SEARCH, WEB_FETCH: {**_WEB_SEARCH, "max_content_tokens": None}}
"""Those of the web, by name."""


def ignored_fields(body: CountTokensBody) -> tuple[str, ...]:
    """The fields of the request that have no effect, by their paths."""
    found = dict.fromkeys(body.unknown)
    found |= unused_fields(body.messages, {"role": None, "content": _BLOCKS}, "messages")
    found |= unused_fields(body.system, _BLOCKS, "system")
    found |= unused_fields(body.thinking, {"type": None, "budget_tokens": None}, "thinking")
    found |= unused_fields(
        body.output_config, {"effort": None, "format": {"type": None, "schema": None}}, "output_config"
    )
    for tool in body.tools:
        found |= unused_fields(tool, _TOOLS.get(web_tool_of(tool) or "", _TOOL), "tools")
    found |= unused_fields(
        body.tool_choice, {"type": None, "name": None, "disable_parallel_tool_use": None}, "tool_choice"
    )
    return tuple(found)
