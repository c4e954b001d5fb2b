"""What a model gets to read pages of the web with: the tool it is offered, and what it reads of a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from corral.core.errors import InvalidRequest
from corral.core.ports.web import WebPage
from corral.core.requests.calls import ChatCall
from corral.core.requests.messages import Tool
from corral.core.requests.outputs import Output
from corral.core.values import Value

__all__ = (
    "DEFAULT_PAGE_CHARS",
    "WEB_FETCH",
    "FetchBegun",
    "FetchEnded",
    "FetchProblem",
    "WebFetch",
    "fetch_problem_text",
    "page_text",
    "with_web_fetch",
)

WEB_FETCH = "web_fetch"
"""The name of the tool."""

DEFAULT_PAGE_CHARS = 20_000
"""Of a page that a model reads, if the caller sets no limit."""

FetchProblem = Literal["no_url", "unknown_url", "refused_url", "not_accessible", "too_many_uses"]

_TOOL = Tool(
    name=WEB_FETCH,
    description="Fetches a page of the web, and returns its text. The address must be one from the conversation.",
    parameters={
        "type": "object",
        "properties": {"url": {"type": "string", "description": "The address of the page."}},
        "required": ["url"],
    },
)
_TEXTS: Mapping[FetchProblem, str] = {
    "no_url": "the address is missing",
    "unknown_url": "only addresses that stand in the conversation or in results of searches are fetched",
    "refused_url": "this address is not fetched",
    "not_accessible": "the page cannot be read",
    "too_many_uses": "no more pages may be fetched; answer with what was found",
}


class WebFetch(Value, frozen=True, kw_only=True):
    """How a model may read pages while it answers; fields as in `WebSearch`. `max_page_chars` is the most of a page."""

    max_uses: int | None = None
    allowed_domains: tuple[str, ...] = ()
    blocked_domains: tuple[str, ...] = ()
    max_page_chars: int = DEFAULT_PAGE_CHARS
    strict: bool = False


class FetchBegun(Output, frozen=True, kw_only=True):
    """The model has asked for a page, which is fetched now. `id` is that of its call; `url` is empty if it has none."""

    id: str
    url: str


class FetchEnded(Output, frozen=True, kw_only=True):
    """The page of the fetch with this `id`, as far as the model reads it; None because of a `problem`."""

    id: str
    page: WebPage | None = None
    problem: FetchProblem | None = None


def with_web_fetch(call: ChatCall, fetch: WebFetch) -> ChatCall:
    """The call with the tool that fetches. Raises `InvalidRequest` if it has another tool of that name."""
    if any(tool.name == WEB_FETCH for tool in call.tools):
        raise InvalidRequest(f"tools: there are two tools named {WEB_FETCH!r}", "rename your own")
    return msgspec.structs.replace(call, tools=(*call.tools, msgspec.structs.replace(_TOOL, strict=fetch.strict)))


def page_text(page: WebPage) -> str:
    """What the model reads of a page."""
    return "\n".join(filter(None, (page.title, page.url, page.content)))


def fetch_problem_text(problem: FetchProblem) -> str:
    """What the model reads of a page that it does not get."""
    return f"Error: {_TEXTS[problem]}"
