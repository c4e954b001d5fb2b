"""What a model gets to search the web with: the tool it is offered, and what it reads of results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from corral.core.errors import InvalidRequest
from corral.core.ports.web import SearchResult
from corral.core.requests.calls import ChatCall
from corral.core.requests.messages import Tool
from corral.core.requests.outputs import Output
from corral.core.values import Value

__all__ = (
    "DEFAULT_USES",
    "WEB_SEARCH",
    "SearchBegun",
    "SearchEnded",
    "SearchProblem",
    "WebSearch",
    "problem_text",
    "results_text",
    "with_web_search",
)

WEB_SEARCH = "web_search"
"""The name of the tool."""

DEFAULT_USES = 10
"""Searches in one answer, if the caller sets no limit."""

SearchProblem = Literal["no_query", "query_too_long", "too_many_uses", "unavailable"]

_TOOL = Tool(
    name=WEB_SEARCH,
    description="Searches the web for pages, and returns the title, the address and an excerpt of each.",
    parameters={
        "type": "object",
        "properties": {"query": {"type": "string", "description": "What to search for."}},
        "required": ["query"],
    },
)
_TEXTS: Mapping[SearchProblem, str] = {
    "no_query": "the search has no query",
    "query_too_long": "the query is too long",
    "too_many_uses": "no more searches are allowed; answer with what was found",
    "unavailable": "the search is not available now",
}


class WebSearch(Value, frozen=True, kw_only=True):
    """How a model may search the web while it answers.

    `max_uses` is how many searches it may make; None allows `DEFAULT_USES`. Only pages of `allowed_domains` are found,
    if there are any, and none of `blocked_domains` (see `core.web.domains`). `max_results` limits those of one search;
    0 means 5. With `strict`, calls of the tool are held to its schema.
    """

    max_uses: int | None = None
    allowed_domains: tuple[str, ...] = ()
    blocked_domains: tuple[str, ...] = ()
    max_results: int = 0
    strict: bool = False


class SearchBegun(Output, frozen=True, kw_only=True):
    """The model has asked for a search, which begins now. `id` is that of its call; `query` is empty if it has none."""

    id: str
    query: str


class SearchEnded(Output, frozen=True, kw_only=True):
    """The search with this `id` has found `results`, or none because of a `problem`."""

    id: str
    results: tuple[SearchResult, ...] = ()
    problem: SearchProblem | None = None


def with_web_search(call: ChatCall, search: WebSearch) -> ChatCall:
    """The call with the tool that searches. Raises `InvalidRequest` if it has another tool of that name."""
    if any(tool.name == WEB_SEARCH for tool in call.tools):
        raise InvalidRequest(f"tools: there are two tools named {WEB_SEARCH!r}", "rename your own")
    tool = msgspec.structs.replace(_TOOL, strict=search.strict)
    return msgspec.structs.replace(call, tools=(*call.tools, tool))


def results_text(results: Iterable[SearchResult]) -> str:
    """What the model reads of the results of a search."""
    parts = ["\n".join(filter(None, (one.title, one.url, one.content))) for one in results]
    return "\n\n".join(parts) or "Nothing was found."


def problem_text(problem: SearchProblem) -> str:
    """What the model reads of a search that failed."""
    return f"Error: {_TEXTS[problem]}"
