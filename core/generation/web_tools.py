"""Makes the calls of a model that need the web: searches it and fetches its pages, as often as the caller allows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from corral.core.errors import InvalidRequest
from corral.core.generation.web_fetch import (
    WEB_FETCH,
    FetchBegun,
    FetchEnded,
    FetchProblem,
    WebFetch,
    fetch_problem_text,
    page_text,
)
from corral.core.generation.web_search import (
    DEFAULT_USES,
    WEB_SEARCH,
    SearchBegun,
    SearchEnded,
    SearchProblem,
    WebSearch,
    problem_text,
    results_text,
)
from corral.core.ports.web import WebPage
from corral.core.requests.caller import Caller
from corral.core.requests.messages import ToolCall
from corral.core.requests.outputs import Output
from corral.core.values import Value
from corral.core.web.access import DEFAULT_RESULTS, MOST_RESULTS, WebAccess
from corral.core.web.domains import DomainFilter
from corral.core.web_errors import AddressRefused, QueryTooLong, WebError
from corral.core.wording.clipping import clipped_line

__all__ = ("Made", "PageReader", "WebSearcher", "WebTool")

_log = logging.getLogger(__name__)


class Made(Value, frozen=True, kw_only=True):
    """A call that was made: what the caller hears of it, what the model reads, and whether it was one too many."""

    output: Output
    text: str
    refused: bool = False


class WebTool(Protocol):
    """Makes the calls of one tool, in one answer."""

    name: str

    def begun(self, call: ToolCall) -> Output: ...

    async def make(self, call: ToolCall, seen: Iterable[str]) -> Made:
        """Makes the call. `seen` are the texts that the model did not write. A failure is told to the model, and to the
        log."""
        ...


class _Limited:
    """What both tools have: the domains that are allowed, and how many calls are left."""

    def __init__(self, web: WebAccess, asked: WebSearch | WebFetch, caller: Caller) -> None:
        self._web = web
        self._caller = caller
        self._filter = DomainFilter(asked.allowed_domains, asked.blocked_domains)
        self._left = DEFAULT_USES if asked.max_uses is None else asked.max_uses

    def _may_call(self) -> bool:
        """Counts every call, whatever becomes of it: a model may repeat the same mistake for ever."""
        self._left -= 1
        return self._left >= 0


class WebSearcher(_Limited):
    """The `WebTool` that searches."""

    name = WEB_SEARCH

    def __init__(self, web: WebAccess, search: WebSearch, caller: Caller) -> None:
        super().__init__(web, search, caller)
        self._search = search

    def begun(self, call: ToolCall) -> SearchBegun:
        return SearchBegun(id=str(call.id), query=_text(call, "query"))

    async def make(self, call: ToolCall, seen: Iterable[str]) -> Made:
        ended = await self._ended(str(call.id), _text(call, "query"))
        text = results_text(ended.results) if ended.problem is None else problem_text(ended.problem)
        return Made(output=ended, text=text, refused=ended.problem == "too_many_uses")

    async def _ended(self, id: str, query: str) -> SearchEnded:
        if not self._may_call():
            return SearchEnded(id=id, problem="too_many_uses")
        if not query:
            return SearchEnded(id=id, problem="no_query")
        allowed = self._search.allowed_domains
        if len(allowed) == 1:  # search services understand this; of several domains, only some of them do
            query = f"site:{allowed[0]} {query}"
        count = self._search.max_results or DEFAULT_RESULTS
        problem: SearchProblem = "unavailable"
        try:
            wanted = MOST_RESULTS if self._filter else count
            found = await self._web.search(query, wanted, caller=self._caller)
        except QueryTooLong:
            problem = "query_too_long"
        except (InvalidRequest, WebError) as error:
            _log.warning("a search of a model failed: %s", clipped_line(str(error)))
        else:
            return SearchEnded(id=id, results=self._filter.of(found)[:count])
        return SearchEnded(id=id, problem=problem)


class PageReader(_Limited):
    """The `WebTool` that fetches pages. It takes addresses only from what the model has read: one that it has made up
    could carry what else it has read to whoever asked for it in a page.
    """

    name = WEB_FETCH

    def __init__(self, web: WebAccess, fetch: WebFetch, caller: Caller) -> None:
        super().__init__(web, fetch, caller)
        self._fetch = fetch

    def begun(self, call: ToolCall) -> FetchBegun:
        return FetchBegun(id=str(call.id), url=_text(call, "url"))

    async def make(self, call: ToolCall, seen: Iterable[str]) -> Made:
        ended = await self._ended(str(call.id), _text(call, "url"), seen)
        if ended.page is not None:
            return Made(output=ended, text=page_text(ended.page))
        problem = ended.problem or "not_accessible"
        return Made(output=ended, text=fetch_problem_text(problem), refused=problem == "too_many_uses")

    async def _ended(self, id: str, url: str, seen: Iterable[str]) -> FetchEnded:
        if not self._may_call():
            return FetchEnded(id=id, problem="too_many_uses")
        if not url:
            return FetchEnded(id=id, problem="no_url")
        if not any(url in text for text in seen):
            return FetchEnded(id=id, problem="unknown_url")
        if self._filter and not self._filter.lets(url if "://" in url else f"https://{url}"):
            return FetchEnded(id=id, problem="refused_url")
        problem: FetchProblem = "not_accessible"
        try:
            page = await self._web.fetch(url, caller=self._caller)
        except AddressRefused as error:
            problem = "refused_url"
            _log.warning("a model's page was refused: %s", clipped_line(str(error)))
        except (InvalidRequest, WebError) as error:
            _log.warning("a model's page was not read: %s", clipped_line(str(error)))
        else:
            if not self._filter or self._filter.lets(page.url):
                content = page.content[: self._fetch.max_page_chars]
                return FetchEnded(id=id, page=WebPage(url=page.url, title=page.title, content=content))
            problem = "refused_url"
        return FetchEnded(id=id, problem=problem)


def _text(call: ToolCall, key: str) -> str:
    value = call.arguments.get(key)
    return value.strip() if isinstance(value, str) else ""
