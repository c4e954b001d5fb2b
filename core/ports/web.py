"""The ports of the web: a service that searches it, and what fetches its pages."""

from __future__ import annotations

from typing import Protocol

from corral.core.values import Value

__all__ = ("PageFetcher", "SearchProvider", "SearchResult", "WebPage")


class SearchResult(Value, frozen=True, kw_only=True):
    """A page that was found. `content` is the part of its text that the service shows, empty if it shows none."""

    title: str
    url: str
    content: str = ""


class WebPage(Value, frozen=True, kw_only=True):
    """The text of a page. `url` is where it was found after redirects; `links` are absolute, each of them once.

    `title` is empty if the page has none.
    """

    url: str
    title: str = ""
    content: str = ""
    links: tuple[str, ...] = ()


class SearchProvider(Protocol):
    """A service that searches the web. It is contacted for searches only, never of its own accord."""

    async def search(self, query: str, max_results: int) -> tuple[SearchResult, ...]:
        """The best results first, at most `max_results`; empty if nothing was found.

        The query is not empty. Raises `WebError` if the service cannot be reached, refuses, or answers nonsense.
        """
        ...

    async def aclose(self) -> None:
        """Closes its connections. Safe to call twice."""
        ...


class PageFetcher(Protocol):
    """Fetches a page of the web, within limits of size and time."""

    async def fetch(self, url: str) -> WebPage:
        """The page at an address of ``http`` or ``https``, which is taken as ``https`` if it names neither.

        Raises `AddressRefused` before anything is sent to an address that must not be fetched, also if a redirect
        leads there, and `WebError` if there is no such page or it is not taken.
        """
        ...
