"""Anthropic's tool that searches the web: what a request says of it, and the blocks of an answer that searches."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from corral.api.http.anthropic.replies import (
    Block,
    ServerToolUseBlock,
    WebSearchErrorBlock,
    WebSearchResultBlock,
    WebSearchToolResultBlock,
)
from corral.api.http.errors import ApiError
from corral.core.generation.web_search import (
    WEB_SEARCH,
    SearchBegun,
    SearchEnded,
    SearchProblem,
    WebSearch,
    problem_text,
    results_text,
)
from corral.core.ports.web import SearchResult

__all__ = ("ended_block", "is_web_search", "read_results", "read_web_search", "use_block")

_TYPE = re.compile(r"web_search_\d{8}")
_CODES: Mapping[SearchProblem, str] = {
    "no_query": "invalid_tool_input",
    "query_too_long": "query_too_long",
    "too_many_uses": "max_uses_exceeded",
    "unavailable": "unavailable",
}
_PROBLEMS: Mapping[str, SearchProblem] = {code: problem for problem, code in _CODES.items()}


def is_web_search(tool: Mapping[str, Any]) -> bool:
    """Whether a tool of a request is the one that searches, of any version."""
    kind = tool.get("type")
    return isinstance(kind, str) and _TYPE.fullmatch(kind) is not None


def read_web_search(tools: Sequence[Mapping[str, Any]]) -> WebSearch | None:
    """How the model may search; None if the request does not offer it. Raises `ApiError` 400."""
    found = [(place, tool) for place, tool in enumerate(tools) if is_web_search(tool)]
    if not found:
        return None
    place, tool = found[-1]
    at = f"tools[{place}]"
    if len(found) > 1:
        raise ApiError(400, f"{at}: the tool {json.dumps(tool['type'])} is there twice", param=at)
    if tool.get("name") != WEB_SEARCH:
        raise ApiError(400, f'{at}: the name of {json.dumps(tool["type"])} is "{WEB_SEARCH}"', param=at)
    uses = tool.get("max_uses")
    if uses is not None and (isinstance(uses, bool) or not isinstance(uses, int) or uses < 1):
        raise ApiError(400, f"{at}.max_uses must be a positive integer", param=f"{at}.max_uses")
    allowed, blocked = _domains(tool, "allowed_domains", at), _domains(tool, "blocked_domains", at)
    if allowed and blocked:
        raise ApiError(400, f"{at}: allowed_domains and blocked_domains exclude each other; omit one", param=at)
    strict = tool.get("strict") is True
    return WebSearch(max_uses=uses, allowed_domains=allowed, blocked_domains=blocked, strict=strict)


def use_block(begun: SearchBegun, given: Mapping[str, Any]) -> ServerToolUseBlock:
    """The block of a search that begins; `given` is its input."""
    return ServerToolUseBlock(id=_id(begun.id), name=WEB_SEARCH, input=given)


def ended_block(ended: SearchEnded) -> Block:
    """The block of what a search has found. What stands in place of Anthropic's ciphers is the text of the results."""
    if ended.problem is not None:
        failed = WebSearchErrorBlock(error_code=_CODES[ended.problem])
        return WebSearchToolResultBlock(tool_use_id=_id(ended.id), content=failed)
    results = [
        WebSearchResultBlock(title=one.title, url=one.url, encrypted_content=one.content) for one in ended.results
    ]
    return WebSearchToolResultBlock(tool_use_id=_id(ended.id), content=results)


def read_results(content: Any) -> str:
    """What the model reads of the content of a ``web_search_tool_result`` that comes back."""
    if isinstance(content, list):
        return results_text(
            SearchResult(
                title=str(one.get("title") or ""),
                url=str(one.get("url") or ""),
                content=str(one.get("encrypted_content") or ""),
            )
            for one in content
            if isinstance(one, dict)
        )
    code = content.get("error_code") if isinstance(content, dict) else None
    return problem_text(_PROBLEMS.get(code, "unavailable") if isinstance(code, str) else "unavailable")


def _domains(tool: Mapping[str, Any], key: str, at: str) -> tuple[str, ...]:
    given = tool.get(key)
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(one, str) and one.strip() for one in given):
        raise ApiError(400, f"{at}.{key} is not a list of domains", param=f"{at}.{key}")
    return tuple(given)


def _id(call_id: str) -> str:
    """An id like the vendor's, which tells searches from calls that the client makes."""
    return f"srvtoolu_{re.sub(r'[^a-zA-Z0-9_]', '_', call_id.removeprefix('call_'))}"
