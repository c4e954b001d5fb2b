"""The use case of the web: what people and models may search for and fetch, and how much of it."""

from __future__ import annotations

import asyncio
from typing import Final

from corral.core.errors import InvalidRequest
from corral.core.ports.web import PageFetcher, SearchProvider, SearchResult, WebPage
from corral.core.web_errors import QueryTooLong, WebDisabled
from corral.core.wording.clipping import clipped

__all__ = ("DEFAULT_RESULTS", "MOST_RESULTS", "WebAccess")

DEFAULT_RESULTS: Final = 5
MOST_RESULTS: Final = 10
"""Ollama's numbers."""

_LONGEST_QUERY = 2000
_LONGEST_RESULT = 4000
_MOST_AT_ONCE = 8


class WebAccess:
    """Searches and fetches for whoever asks; at most eight requests run at once, others wait for their turn.

    Without a `provider`, nothing is searched; without a `fetcher`, nothing is fetched.
    """

    def __init__(self, provider: SearchProvider | None = None, fetcher: PageFetcher | None = None) -> None:
        self._provider = provider
        self._fetcher = fetcher
        self._turn = asyncio.Semaphore(_MOST_AT_ONCE)

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

    async def search(self, query: str, max_results: int = 0) -> tuple[SearchResult, ...]:
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
        async with self._turn:
            found = await provider.search(query, count)
        unique: dict[str, SearchResult] = {}
        for result in found:
            unique.setdefault(result.url, result)
        return tuple(_shortened(result) for result in unique.values())[:count]

    async def fetch(self, url: str) -> WebPage:
        """The page at an address. Raises `WebDisabled`, and what `PageFetcher.fetch` raises."""
        if self._fetcher is None:
            raise WebDisabled("pages of the web are not fetched", "set web.fetch to true")
        url = url.strip()
        if not url:
            raise InvalidRequest("url is required", "give the address of a page")
        async with self._turn:
            return await self._fetcher.fetch(url)

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
