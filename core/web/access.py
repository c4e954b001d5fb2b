"""The use case of the web: what people and models may search for and fetch, and how much of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from corral.core.errors import InvalidRequest
from corral.core.ports.web import PageFetcher, SearchProvider, SearchResult, WebPage
from corral.core.requests.caller import ANONYMOUS, Caller
from corral.core.web.fair_turns import FairTurns
from corral.core.web_errors import QueryTooLong, WebDisabled, WebError
from corral.core.wording.clipping import clipped

__all__ = ("DEFAULT_RESULTS", "MOST_RESULTS", "WebAccess")

DEFAULT_RESULTS: Final = 5
MOST_RESULTS: Final = 10
"""Ollama's numbers."""

_LONGEST_QUERY = 2000
_LONGEST_RESULT = 4000
_MOST_AT_ONCE = 8
_MOST_OF_ONE = 6


class WebAccess:
    """Searches and fetches for whoever asks; at most eight requests run at once, six of one principal, and others wait
    for their turn.

    Without a `provider`, nothing is searched; without a `fetcher`, nothing is fetched. `limit_s` is the longest time
    for a request, in which it waits, too.
    """

    def __init__(
        self, provider: SearchProvider | None = None, fetcher: PageFetcher | None = None, *, limit_s: float = 60.0
    ) -> None:
        self._provider = provider
        self._fetcher = fetcher
        self._limit_s = limit_s
        self._turns = FairTurns(_MOST_AT_ONCE, _MOST_OF_ONE)

    @property
    def can_search(self) -> bool:
        return self._provider is not None

    @property
    def can_fetch(self) -> bool:
        return self._fetcher is not None

    def require_search(self) -> SearchProvider:
        """The provider. Raises `WebDisabled` if there is none."""
        if self._provider is None:
            raise WebDisabled("the web is not searched", 'set web.search, for example to "searxng"')
        return self._provider

    async def search(self, query: str, max_results: int = 0, *, caller: Caller = ANONYMOUS) -> tuple[SearchResult, ...]:
        """The best results first, each address once: at most `max_results` of them, and never more than 10; 0 means 5.

        Raises `WebDisabled`, `InvalidRequest` for a query or a number that means nothing (`QueryTooLong` is one), and
        `WebError`.
        """
        provider = self.require_search()
        query = query.strip()
        if not query:
            raise InvalidRequest("query is required", "say what to search for")
        if len(query) > _LONGEST_QUERY:
            raise QueryTooLong(f"the query has {len(query)} characters", f"at most {_LONGEST_QUERY} are searched for")
        if max_results < 0:
            raise InvalidRequest(f"max_results is {max_results}", f"it is a number from 1 to {MOST_RESULTS}")
        count = min(max_results or DEFAULT_RESULTS, MOST_RESULTS)
        async with self._turn(caller):
            found = await provider.search(query, count)
        unique: dict[str, SearchResult] = {}
        for result in found:
            unique.setdefault(result.url, result)
        return tuple(_shortened(result) for result in unique.values())[:count]

    def require_fetch(self) -> PageFetcher:
        """What fetches pages. Raises `WebDisabled` if nothing does."""
        if self._fetcher is None:
            raise WebDisabled("pages of the web are not fetched", "set web.fetch to true")
        return self._fetcher

    async def fetch(self, url: str, *, caller: Caller = ANONYMOUS) -> WebPage:
        """The page at an address. Raises `WebDisabled`, `WebError` if it takes too long, and what `PageFetcher.fetch`
        raises.
        """
        fetcher = self.require_fetch()
        url = url.strip()
        if not url:
            raise InvalidRequest("url is required", "give the address of a page")
        async with self._turn(caller):
            return await fetcher.fetch(url)

    @asynccontextmanager
    async def _turn(self, caller: Caller) -> AsyncIterator[None]:
        """The caller's turn. Raises `WebError` if it does not come, or does not end, within the limit."""
        waits = True
        try:
            async with asyncio.timeout(self._limit_s) as limit, self._turns.of(caller.principal.name):
                waits = False
                yield
        except TimeoutError as fault:
            if not limit.expired():  # a plugin's own
                raise
            what = "other searches and pages took all the time" if waits else "nothing came"
            raise WebError(f"{what} for {self._limit_s:g} s", "try again, or raise web.total_timeout_s") from fault

    async def aclose(self) -> None:
        """Closes the provider's connections. Safe to call twice."""
        if self._provider is not None:
            await self._provider.aclose()


def _shortened(result: SearchResult) -> SearchResult:
    return SearchResult(
        title=clipped(result.title, _LONGEST_RESULT),
        url=result.url,
        content=clipped(result.content, _LONGEST_RESULT),
    )
