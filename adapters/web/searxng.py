"""Searches the web through a SearXNG, by its JSON API: ``GET /search?q=…&format=json``.

Source: https://docs.searxng.org/dev/search_api.html
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode, urlsplit

import msgspec

from corral.adapters.web.settings import SearxngSettings
from corral.core.errors import SettingsError
from corral.core.malformed import MALFORMED
from corral.core.ports.web import SearchResult
from corral.core.web_errors import WebError, WebNotInstalled
from corral.core.wording.pip_lines import pip_line

__all__ = ("SearxngSearch",)

_MOST_BYTES = 4 * 1024 * 1024
_SECTION = "search_providers.searxng"


class FoundPage(msgspec.Struct, frozen=True, kw_only=True):
    """An element of ``results``; SearXNG has more fields."""

    url: str | None = None
    title: str | None = None
    content: str | None = None


class FoundPages(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/search``."""

    results: tuple[FoundPage, ...] = ()


class SearxngSearch:
    """A `SearchProvider`. Each search is one request, on a connection of its own."""

    def __init__(self, settings: SearxngSettings) -> None:
        """Raises `SettingsError` if the address is missing or malformed."""
        self._settings = settings
        try:
            parts = urlsplit(settings.url)
            port = parts.port
        except ValueError as fault:
            raise _no_address(settings.url) from fault
        is_server = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        if not is_server or not settings.url.isascii():
            raise _no_address(settings.url)
        self._scheme, self._host = parts.scheme, parts.hostname or ""
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._path = f"{parts.path.rstrip('/')}/search"

    async def search(self, query: str, max_results: int) -> tuple[SearchResult, ...]:
        try:
            from corral.adapters.web.addresses import PageAddress
            from corral.adapters.web.exchange import asked
        except ImportError as fault:
            raise WebNotInstalled("searching needs the package httpx", pip_line("corral[web]")) from fault
        page = PageAddress(scheme=self._scheme, host=self._host, port=self._port, target=self._target(query))
        try:
            async with asyncio.timeout(self._settings.timeout_s), asked(page, accept="application/json") as answer:
                if answer.status != 200:
                    raise self._refused(answer.status)
                data = await answer.body(_MOST_BYTES)
        except TimeoutError as fault:
            raise WebError(
                f"SearXNG at {page.authority} did not answer within {self._settings.timeout_s:g} s",
                f"try again, or raise {_SECTION}.timeout_s",
            ) from fault
        try:
            found = msgspec.json.decode(data, type=FoundPages)
        except MALFORMED as fault:
            raise WebError(
                f"{page.authority} did not answer as SearXNG does: {fault}", f"check {_SECTION}.url"
            ) from fault
        results = (
            SearchResult(url=one.url, title=one.title or "", content=one.content or "")
            for one in found.results
            if one.url and one.url.startswith(("http://", "https://"))
        )
        return tuple(results)[:max_results]

    async def aclose(self) -> None:
        """Nothing stays open."""

    def _target(self, query: str) -> str:
        stated = {
            "q": query,
            "format": "json",
            "language": self._settings.language,
            "categories": self._settings.categories,
            "safesearch": "" if self._settings.safe_search is None else str(self._settings.safe_search),
        }
        return f"{self._path}?{urlencode({name: value for name, value in stated.items() if value}, errors='replace')}"

    def _refused(self, status: int) -> WebError:
        remedy = "add json to search.formats in SearXNG's settings.yml" if status == 403 else f"check {_SECTION}.url"
        if status == 429:
            remedy = "its limiter is on: allow this machine in SearXNG's limiter.toml"
        return WebError(f"SearXNG at {self._host} answered with status {status}", remedy)


def _no_address(url: str) -> SettingsError:
    return SettingsError(f"{_SECTION}.url: {url!r} is not the address of a SearXNG", "write http://HOST:PORT")
