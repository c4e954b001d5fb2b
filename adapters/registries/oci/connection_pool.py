"""Connections to registries: TLS, proxies, time limits; one request at a time, never a redirect of its own accord."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from corral.adapters.registries.oci.settings import OciRegistrySettings
from corral.core.errors import SettingsError, SourceError, SourceStalled, SourceUnavailable
from corral.core.wording.clipping import clipped_line
from corral.core.wording.pip_lines import pip_line

if TYPE_CHECKING:
    import httpx

__all__ = ("Body", "ConnectionPool", "Response")

Body = Callable[[], AsyncIterator[bytes]]
"""Makes the body of a request; called again if the request is sent again."""

# uvicorn and others close connections that have been idle for five seconds.
_IDLE_CONNECTION_S = 4.0
_SECRET = "Illegal header value"  # how h11 begins, before it quotes the value
_LEFT_BYTES: Final = 64 * 1024
_LEFT_S: Final = 1.0
"""What is left of an answer is read if it is no more than that, so that its connection can be used again."""
_REPEATABLE: Final = frozenset({"GET", "HEAD", "POST", "DELETE"})
"""Sent again if the kept connection had been closed: a second upload that is started does no harm."""


class Response:
    """The answer to one request, whose body has not been read yet. Whoever got it closes it.

    `authorization` is what the request had shown.
    """

    authorization: str | None = None

    def __init__(self, response: httpx.Response, url: str, connections: ConnectionPool) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.url = url
        self._response = response
        self._connections = connections

    def header_values(self, name: str) -> list[str]:
        return self._response.headers.get_list(name)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives. Raises `SourceUnavailable` if it breaks off or stalls."""
        with self._connections.translated(self.url):
            async for chunk in self._response.aiter_raw():
                yield chunk

    async def beginning(self, limit_bytes: int) -> bytes:
        """At most so much of the body."""
        data = bytearray()
        async for chunk in self.chunks():
            data += chunk
            if len(data) >= limit_bytes:
                break
        return bytes(data[:limit_bytes])

    async def aclose(self) -> None:
        """Keeps the connection if little of the body is left, and closes it otherwise. Safe to call twice."""
        await asyncio.shield(self._end())

    async def _end(self) -> None:
        if not self._response.is_stream_consumed and self._is_small():
            with suppress(Exception):  # whatever is wrong with the rest, nobody wants it
                async with asyncio.timeout(_LEFT_S):
                    async for _ in self._response.aiter_raw():
                        pass
        await self._response.aclose()

    def _is_small(self) -> bool:
        """Whether the body is known to be small."""
        if self._response.request.method == "HEAD" or self.status in (204, 304):
            return True
        length = self.headers.get("content-length", "")
        return length.isdecimal() and int(length) <= _LEFT_BYTES


class ConnectionPool:
    """A pool of connections, for one event loop. Made with the first request; its creator closes it.

    `section` is where a user finds these settings.
    """

    def __init__(self, settings: OciRegistrySettings, section: str = "registries.oci") -> None:
        self._settings = settings
        self._section = section
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | bytes | None = None,
        *,
        size_bytes: int | None = None,
        silence_s: float | None = None,
    ) -> Response:
        """The answer, whatever its status. `size_bytes` is the length of a `Body`.

        `silence_s`: how long the registry may think; by default as long as a transfer may stall. Raises `SourceError`,
        and `SourceUnavailable` if no registry answers.
        """
        client = await self._opened()
        with self.translated(url):
            while True:
                fresh = False

                async def trace(event: str, details: Any) -> None:
                    nonlocal fresh
                    fresh = fresh or event.endswith("connect_tcp.started")

                content = body() if callable(body) else body
                lengths = {} if size_bytes is None else {"content-length": str(size_bytes)}
                request = client.build_request(
                    method, url, headers={**headers, **lengths}, content=content, extensions={"trace": trace}
                )
                if silence_s is not None:
                    request.extensions["timeout"] = {**request.extensions["timeout"], "read": silence_s}
                try:
                    return Response(await client.send(request, stream=True), url, self)
                except _gone():
                    if fresh or method not in _REPEATABLE:
                        raise

    async def aclose(self) -> None:
        """Closes every connection. Safe to call twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def translated(self, url: str) -> _Translated:
        """A context whose errors of the client become errors of Corral."""
        return _Translated(url, self._settings, self._section)

    async def _opened(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._client is None:
                try:
                    import httpx
                except ImportError as fault:
                    raise SourceError("this needs the package httpx", pip_line("corral[registry]")) from fault
                settings = self._settings
                self._client = httpx.AsyncClient(
                    headers={
                        "user-agent": settings.user_agent or f"corral/{version('corral')}",
                        "accept-encoding": "identity",
                    },
                    # Reading certificates takes time.
                    verify=await asyncio.to_thread(_tls, settings.ca_file, self._section),
                    # Proxies are for what is elsewhere.
                    mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")},
                    follow_redirects=False,
                    cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none are kept, and none sent
                    timeout=httpx.Timeout(settings.stall_timeout_s, connect=settings.connect_timeout_s, pool=None),
                    limits=httpx.Limits(max_keepalive_connections=32, keepalive_expiry=_IDLE_CONNECTION_S),
                )
                from corral.adapters.registries.oci.large_reads import read_largely

                read_largely(self._client)
            return self._client


class _Translated:
    def __init__(self, url: str, settings: OciRegistrySettings, section: str) -> None:
        with suppress(ValueError):
            url = urlsplit(url).netloc.rpartition("@")[2] or url
        self._host = clipped_line(url, 100)
        self._settings = settings
        self._section = section

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or (translated := self._error(error)) is None:
            return
        # What cannot be sent is shown by the error of the client, and may be a secret.
        raise translated from (None if _SECRET in str(error) else error)

    def _error(self, error: BaseException) -> SourceError | None:
        import httpx

        host = self._host
        if isinstance(error, httpx.ConnectTimeout):
            return SourceUnavailable(
                f"{host} did not accept the connection within {self._settings.connect_timeout_s:g} s",
                f"check its name, the network, and {self._section}.connect_timeout_s",
            )
        if isinstance(error, httpx.TimeoutException):
            return SourceStalled(
                f"{host} sent and took nothing for {self._settings.stall_timeout_s:g} s",
                f"try again; {self._section}.stall_timeout_s is the limit",
            )
        if isinstance(error, httpx.ConnectError | httpx.ProxyError):
            said = clipped_line(str(error))
            if re.search(r"CERTIFICATE_VERIFY_FAILED|certificate", said):
                return SourceError(
                    f"the certificate of {host} is not trusted: {said}",
                    f"set {self._section}.ca_file to the certificate of the authority that signed it",
                )
            if re.search(r"WRONG_VERSION_NUMBER|RECORD_LAYER|wrong version number", said):
                return SourceError(
                    f"{host} does not speak TLS: {said}",
                    f"if that is intended, add it to {self._section}.insecure, or use --insecure",
                )
            return SourceUnavailable(f"no registry answers at {host}: {said}", "check its name and the network")
        if isinstance(error, httpx.TransportError):
            if _SECRET in str(error):
                return SourceError(
                    f"the login for {host} has characters that no header can have",
                    f"corral login {host}, or correct it",
                )
            if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol):
                return SourceError(f"{host}: {clipped_line(str(error))}")
            said = clipped_line(str(error)) or type(error).__name__
            return SourceUnavailable(f"{host} broke off: {said}", "try again")
        if isinstance(error, httpx.InvalidURL | UnicodeError):
            return SourceError(f"not an address: {host}: {clipped_line(str(error))}")
        return None


def _gone() -> tuple[type[Exception], ...]:
    import httpx

    return (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.CloseError)


def _tls(ca_file: str, section: str) -> ssl.SSLContext:
    if not ca_file:
        return ssl.create_default_context()
    path = os.path.expanduser(ca_file)
    try:
        context = ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as fault:
        raise SettingsError(
            f"{section}.ca_file: cannot read {ca_file!r}: {fault}", "it is a PEM file of certificates"
        ) from fault
    context.load_default_certs()
    return context
