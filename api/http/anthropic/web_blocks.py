"""The blocks of an answer that uses the web, and what the model reads of them when they come back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from corral.api.http.anthropic.replies import (
    Block,
    FetchedDocument,
    FetchedText,
    ServerToolUsage,
    ServerToolUseBlock,
    WebFetchErrorBlock,
    WebFetchResultBlock,
    WebFetchToolResultBlock,
    WebSearchErrorBlock,
    WebSearchResultBlock,
    WebSearchToolResultBlock,
)
from corral.core.generation.web_fetch import (
    WEB_FETCH,
    FetchBegun,
    FetchEnded,
    FetchProblem,
    fetch_problem_text,
    page_text,
)
from corral.core.generation.web_search import (
    WEB_SEARCH,
    SearchBegun,
    SearchEnded,
    SearchProblem,
    problem_text,
    results_text,
)
from corral.core.ports.web import SearchResult, WebPage
from corral.core.requests.outputs import Output

__all__ = ("WebOutput", "counted", "ended_block", "input_of", "read_page", "read_results", "use_block", "web_output")

WebOutput = SearchBegun | SearchEnded | FetchBegun | FetchEnded

_SEARCH_CODES: Mapping[SearchProblem, str] = {
    "no_query": "invalid_tool_input",
    "query_too_long": "query_too_long",
    "too_many_uses": "max_uses_exceeded",
    "unavailable": "unavailable",
}
_SEARCH_PROBLEMS: Mapping[Any, SearchProblem] = {code: problem for problem, code in _SEARCH_CODES.items()}
_FETCH_CODES: Mapping[FetchProblem, str] = {
    "no_url": "invalid_tool_input",
    "unknown_url": "url_not_in_prior_context",
    "refused_url": "url_not_allowed",
    "not_accessible": "url_not_accessible",
    "too_many_uses": "max_uses_exceeded",
}
_FETCH_PROBLEMS: Mapping[Any, FetchProblem] = {code: problem for problem, code in _FETCH_CODES.items()}


def web_output(output: Output) -> WebOutput | None:
    """The output, if it is one of a search or a page."""
    return output if isinstance(output, SearchBegun | SearchEnded | FetchBegun | FetchEnded) else None


def use_block(begun: SearchBegun | FetchBegun, given: Mapping[str, Any]) -> ServerToolUseBlock:
    """The block of a search or a fetch that begins; `given` is its input."""
    name = WEB_SEARCH if isinstance(begun, SearchBegun) else WEB_FETCH
    return ServerToolUseBlock(id=_id(begun.id), name=name, input=given)


def input_of(begun: SearchBegun | FetchBegun) -> dict[str, Any]:
    """What the model has asked for."""
    return {"query": begun.query} if isinstance(begun, SearchBegun) else {"url": begun.url}


def ended_block(ended: SearchEnded | FetchEnded) -> Block:
    """The block of what came of it. What stands in place of Anthropic's ciphers is the text of a result."""
    if isinstance(ended, FetchEnded):
        return WebFetchToolResultBlock(tool_use_id=_id(ended.id), content=_fetched(ended))
    if ended.problem is not None:
        failed = WebSearchErrorBlock(error_code=_SEARCH_CODES[ended.problem])
        return WebSearchToolResultBlock(tool_use_id=_id(ended.id), content=failed)
    results = [
        WebSearchResultBlock(title=one.title, url=one.url, encrypted_content=one.content) for one in ended.results
    ]
    return WebSearchToolResultBlock(tool_use_id=_id(ended.id), content=results)


def counted(usage: ServerToolUsage, ended: SearchEnded | FetchEnded) -> ServerToolUsage:
    """The usage with one more, if it was made."""
    if ended.problem is not None:
        return usage
    searches, fetches = usage.web_search_requests, usage.web_fetch_requests
    if isinstance(ended, SearchEnded):
        return ServerToolUsage(web_search_requests=searches + 1, web_fetch_requests=fetches)
    return ServerToolUsage(web_search_requests=searches, web_fetch_requests=fetches + 1)


def read_results(content: Any) -> str:
    """What the model reads of the content of a ``web_search_tool_result`` that comes back."""
    if isinstance(content, list):
        return results_text(
            SearchResult(
                title=_text(one.get("title")), url=_text(one.get("url")), content=_text(one.get("encrypted_content"))
            )
            for one in content
            if isinstance(one, dict)
        )
    return problem_text(_SEARCH_PROBLEMS.get(_code(content), "unavailable"))


def read_page(content: Any) -> str:
    """What the model reads of the content of a ``web_fetch_tool_result`` that comes back."""
    document = content.get("content") if isinstance(content, dict) else None
    source = document.get("source") if isinstance(document, dict) else None
    if not isinstance(content, dict) or not isinstance(document, dict) or not isinstance(source, dict):
        return fetch_problem_text(_FETCH_PROBLEMS.get(_code(content), "not_accessible"))
    text = _text(source.get("data")) if source.get("type") == "text" else ""
    return page_text(WebPage(url=_text(content.get("url")), title=_text(document.get("title")), content=text))


def _fetched(ended: FetchEnded) -> WebFetchResultBlock | WebFetchErrorBlock:
    if ended.page is None:
        return WebFetchErrorBlock(error_code=_FETCH_CODES[ended.problem or "not_accessible"])
    page = ended.page
    document = FetchedDocument(source=FetchedText(data=page.content), title=page.title or None)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return WebFetchResultBlock(url=page.url, content=document, retrieved_at=now)


def _code(content: Any) -> str:
    return _text(content.get("error_code")) if isinstance(content, dict) else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _id(call_id: str) -> str:
    """An id like the vendor's, which tells searches from calls that the client makes."""
    return f"srvtoolu_{re.sub(r'[^a-zA-Z0-9_]', '_', call_id.removeprefix('call_'))}"
