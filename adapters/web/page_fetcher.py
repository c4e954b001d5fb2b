"""Fetches pages: each address is checked, also those of redirects; size, time and kinds of content are limited."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from corral.adapters.web.addresses import PageAddress, parse_page_address, redirected
from corral.adapters.web.charsets import charset_of, decoded
from corral.adapters.web.extraction import PageBytes, PageParts, extract
from corral.adapters.web.networks import AllowedNetworks
from corral.adapters.web.page_text import LONGEST_TEXT
from corral.adapters.web.settings import WebSettings
from corral.core.errors import JobFailed, OutOfMemory
from corral.core.ports.jobs import JobRunner
from corral.core.ports.web import WebPage
from corral.core.web_errors import WebError, WebNotInstalled
from corral.core.wording.pip_lines import pip_line

if TYPE_CHECKING:
    import httpcore

    from corral.adapters.web.checked_connections import Resolve
    from corral.adapters.web.exchange import PageAnswer

__all__ = ("WebPageFetcher",)

_PACKAGES = ("httpcore", "selectolax")
_ACCEPT = "text/html, application/xhtml+xml, text/plain, application/json;q=0.9, text/*;q=0.8"
_HTML = ("text/html", "application/xhtml+xml")
_TEXTS = ("application/json", "application/xml", "application/javascript", "application/yaml", "application/x-yaml")
_MOST_PARSED = 2
_REDIRECTS = (301, 302, 303, 307, 308)
_EXTRACT = f"{extract.__module__}:{extract.__name__}"


class WebPageFetcher:
    """A `PageFetcher`. HTML is parsed in a process of its own, by `jobs`.

    `resolve` finds the addresses of hosts, `sockets` connects to addresses that have been checked, and `certificates`
    are those that are trusted; by default, all are the system's.
    """

    def __init__(
        self,
        settings: WebSettings,
        jobs: JobRunner,
        *,
        resolve: Resolve | None = None,
        sockets: httpcore.AsyncNetworkBackend | None = None,
        certificates: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """Raises `SettingsError` for an `allow` that is neither a host nor a network."""
        self._settings = settings
        self._jobs = jobs
        self._allowed = AllowedNetworks(settings.allow, "web.allow")
        self._resolve = resolve
        self._sockets = sockets
        self._certificates = certificates
        self._parsing = asyncio.Semaphore(_MOST_PARSED)

    async def fetch(self, url: str) -> WebPage:
        page = parse_page_address(url, self._settings.ports)
        for package in _PACKAGES:
            if find_spec(package) is None:
                raise WebNotInstalled(f"fetching pages needs the package {package}", pip_line("corral[web]"))
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                for _ in range(self._settings.max_redirects + 1):
                    found = await self._asked(page)
                    if isinstance(found, WebPage):
                        return found
                    page = found
        except TimeoutError as fault:
            raise WebError(
                f"{page.url} was not there after {self._settings.timeout_s:g} s",
                "try again, or raise web.timeout_s",
            ) from fault
        raise WebError(f"{url} redirects more than {self._settings.max_redirects} times")

    async def _asked(self, page: PageAddress) -> WebPage | PageAddress:
        """The page, or the address that it redirects to."""
        from corral.adapters.web.checked_connections import CheckedConnections
        from corral.adapters.web.exchange import asked

        async with asked(
            page,
            accept=_ACCEPT,
            user_agent=self._settings.user_agent,
            connections=CheckedConnections(self._allowed, self._resolve, self._sockets),
            certificates=self._certificates,
        ) as answer:
            if answer.status in _REDIRECTS and "location" in answer.headers:
                return redirected(page, answer.headers["location"], self._settings.ports)
            if answer.status != 200:
                raise WebError(f"{page.url} answered with status {answer.status}")
            kind = _kind_of(answer, page)
            data = await answer.body(self._settings.max_page_bytes)
            charset = charset_of(answer.headers.get("content-type", ""))
        if kind in _HTML or (not kind and data.lstrip()[:1] == b"<"):
            return await self._read(page, data, charset)
        text = await asyncio.to_thread(decoded, data, charset)
        return WebPage(url=page.url, content=text[:LONGEST_TEXT])

    async def _read(self, page: PageAddress, data: bytes, charset: str) -> WebPage:
        request = PageBytes(url=page.url, data=data, charset=charset)
        try:
            async with self._parsing:
                parts = await self._jobs.run(_EXTRACT, request, PageParts, lambda share: None)
        except (JobFailed, OutOfMemory) as fault:
            raise WebError(
                f"{page.url} cannot be read: {fault.message}", "its markup takes too much to parse"
            ) from fault
        return WebPage(url=page.url, title=parts.title, content=parts.content, links=parts.links)


def _kind_of(answer: PageAnswer, page: PageAddress) -> str:
    """The content type without its parameters; empty if there is none. Raises `WebError` for what is no text."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind or kind.startswith("text/") or kind in (*_HTML, *_TEXTS) or kind.endswith(("+json", "+xml")):
        return kind
    raise WebError(f"{page.url} is {kind[:100]}, not a page", "only texts are read")
