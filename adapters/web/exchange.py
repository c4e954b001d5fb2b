"""One request for a page or for results: sent on a connection of its own, without cookies, logins or proxies."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version

import httpcore

from corral.adapters.web.addresses import PageAddress
from corral.adapters.web.bodies import ENCODINGS, read_body
from corral.core.error_base import CorralError
from corral.core.web_errors import WebError
from corral.core.wording.clipping import clipped_line

__all__ = ("PageAnswer", "asked", "trusted_certificates")

_CONNECT_S = 5.0
"""Longest wait for a connection to one of a host's addresses, after which the next one is tried."""


class PageAnswer:
    """The head of an answer; its body is read while the exchange lasts. Names of headers are in lower case."""

    def __init__(self, response: httpcore.Response, page: PageAddress) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = {
            name.decode("latin-1").lower(): _text(value) for name, value in response.headers
        }
        self._response = response
        self._page = page

    async def body(self, limit_bytes: int) -> bytes:
        """Raises `WebError` as `read_body`, also if the server announces too much."""
        announced = self.headers.get("content-length", "")
        if announced.isdecimal() and (len(announced) > 15 or int(announced) > limit_bytes):
            raise WebError(f"{self._page.url} is larger than {limit_bytes} bytes", "web.max_page_bytes is the limit")
        chunks = self._response.aiter_stream()
        return await read_body(chunks, self.headers.get("content-encoding", ""), limit_bytes, self._page.url)


@asynccontextmanager
async def asked(
    page: PageAddress,
    *,
    accept: str,
    user_agent: str = "",
    connections: httpcore.AsyncNetworkBackend | None = None,
    certificates: Callable[[], ssl.SSLContext] | None = None,
) -> AsyncIterator[PageAnswer]:
    """Asks for `page` and closes the connection after that. Time limits are the caller's.

    `connections` opens the sockets; `certificates` are those that are trusted, by default the system's.
    Raises `WebError` if there is no answer.
    """
    request = httpcore.Request(
        "GET",
        httpcore.URL(
            scheme=page.scheme.encode(),
            host=page.host.encode("ascii"),
            port=page.port,
            target=page.target.encode("ascii"),
        ),
        headers=[
            ("Host", page.authority),
            ("User-Agent", user_agent or f"corral/{version('corral')}"),
            ("Accept", accept),
            ("Accept-Encoding", ENCODINGS),
            ("Connection", "close"),
        ],
        extensions={"timeout": {"connect": _CONNECT_S}},
    )
    try:
        context = await asyncio.to_thread(certificates or trusted_certificates) if page.scheme == "https" else None
        async with httpcore.AsyncConnectionPool(ssl_context=context, network_backend=connections) as pool:
            response = await pool.handle_async_request(request)
            try:
                yield PageAnswer(response, page)
            finally:
                await response.aclose()
    except CorralError:
        raise
    except (httpcore.ConnectError, httpcore.ConnectTimeout, ssl.SSLError, OSError) as fault:
        raise WebError(
            f"{page.authority} cannot be reached: {clipped_line(str(fault))}", "check the address and the network"
        ) from fault
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as fault:
        said = clipped_line(str(fault)) or type(fault).__name__
        raise WebError(f"{page.authority} broke off: {said}", "try again") from fault


def _text(value: bytes) -> str:
    """Of a header: servers write addresses in UTF-8, although the standard once meant ISO 8859-1."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


@cache
def trusted_certificates() -> ssl.SSLContext:
    """The certificates that the system trusts, and those that come with the client. Reading them takes time."""
    return httpcore.default_ssl_context()
