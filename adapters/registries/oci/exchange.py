"""Sends requests to registries: finds out whether they have TLS, shows what they demand, follows their redirects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol
from urllib.parse import urljoin, urlsplit, urlunsplit

from corral.adapters.registries.oci.addressing import Place, is_loopback
from corral.adapters.registries.oci.connection_pool import Body, ConnectionPool, Response
from corral.adapters.registries.oci.refusals import refusal
from corral.core.errors import CorralError, SourceError
from corral.core.wording.clipping import clipped_line

__all__ = ("Authorizing", "RegistryExchange", "pull_scope", "push_scope")

_MOST_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)


class Authorizing(Protocol):
    """What a request shows of its own accord, and after a 401."""

    async def known(self, place: Place, base: str, scopes: tuple[str, ...]) -> str | None: ...

    async def demanded(
        self, place: Place, base: str, scopes: tuple[str, ...], headers: Iterable[str], refused: str | None
    ) -> str | None: ...


def pull_scope(place: Place) -> str:
    return f"repository:{place.repository}:pull"


def push_scope(place: Place) -> str:
    return f"repository:{place.repository}:pull,push"


class RegistryExchange:
    """``Authorization`` is sent to the registry itself and to nobody else."""

    def __init__(self, connections: ConnectionPool, authorizer: Authorizing, insecure: tuple[str, ...]) -> None:
        self._connections = connections
        self._authorizer = authorizer
        self._insecure = frozenset(host.lower() for host in insecure)
        self._bases: dict[str, str] = {}

    async def send(
        self,
        place: Place,
        method: str,
        path: str,
        scopes: tuple[str, ...],
        *,
        headers: Mapping[str, str] = {},
        body: Body | bytes | None = None,
        size_bytes: int | None = None,
        silence_s: float | None = None,
        follow: bool = False,
    ) -> Response:
        """The answer, whatever its status; a 401 is tried once more with what it demands.

        `path` begins with a slash, or is an address that the registry gave. `follow` follows redirects, for methods
        without a body. Raises `SourceError`.
        """
        base = await self.base(place)
        url = self.resolved(base, f"{base}/", path)
        for _ in range(_MOST_REDIRECTS + 1):
            answer = await self._authorized(
                place, base, method, url, scopes, headers=headers, body=body, size_bytes=size_bytes, silence_s=silence_s
            )
            location = answer.headers.get("location")
            if not follow or answer.status not in _REDIRECTS or location is None:
                return answer
            await answer.aclose()
            url = self.resolved(base, url, location)
        raise SourceError(
            f"maximum redirects exceeded ({_MOST_REDIRECTS}) for directURL", f"{place.host} redirects in circles"
        )

    async def refused(self, answer: Response, place: Place, what: str) -> CorralError:
        """The error for an answer to `send`, as `refusal` makes it."""
        return await refusal(answer, place.host, what, answer.authorization)

    async def base(self, place: Place) -> str:
        """The registry's address. One on this machine is asked whether it has TLS; all others have, or are insecure."""
        authority = place.authority
        if place.insecure or not self._insecure.isdisjoint((place.host, authority)):
            return f"http://{authority}"
        if not is_loopback(authority):
            return f"https://{authority}"
        if authority not in self._bases:
            if not await self._is_plain(authority):
                return f"https://{authority}"
            self._bases[authority] = f"http://{authority}"
        return self._bases[authority]

    def resolved(self, base: str, url: str, location: str) -> str:
        """Where `location` leads from `url`. Raises `SourceError` if that would give up TLS."""
        try:
            parts = urlsplit(urljoin(url, location))
            host = parts.hostname
            _ = parts.port
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https") or parts.username is not None:
            raise SourceError(f"{urlsplit(url).netloc} redirects to {clipped_line(location)!r}, which is no address")
        own = urlsplit(base)
        if parts.scheme == "http" and urlsplit(url).scheme == "https":
            if parts.hostname != own.hostname:
                raise SourceError(f"{own.netloc} redirects to {clipped_line(parts.netloc)}, which has no TLS")
            # A registry behind a proxy that has TLS for it does not know its own address.
            return urlunsplit(("https", own.netloc, parts.path, parts.query, ""))
        return urlunsplit((*parts[:4], ""))

    def is_own(self, base: str, url: str) -> bool:
        """Whether `url` is at the registry itself."""
        return _origin(base) == _origin(url)

    async def _authorized(
        self,
        place: Place,
        base: str,
        method: str,
        url: str,
        scopes: tuple[str, ...],
        *,
        headers: Mapping[str, str],
        body: Body | bytes | None,
        size_bytes: int | None,
        silence_s: float | None,
    ) -> Response:
        async def send(authorization: str | None) -> Response:
            shown = {} if authorization is None else {"authorization": authorization}
            answer = await self._connections.send(
                method, url, {**headers, **shown}, body, size_bytes=size_bytes, silence_s=silence_s
            )
            answer.authorization = authorization
            return answer

        if not self.is_own(base, url):
            return await send(None)
        authorization = await self._authorizer.known(place, base, scopes)
        answer = await send(authorization)
        if answer.status != 401:
            return answer
        try:
            demanded = await self._authorizer.demanded(
                place, base, scopes, answer.header_values("www-authenticate"), authorization
            )
        except BaseException:
            await answer.aclose()
            raise
        if demanded is None:
            return answer
        await answer.aclose()
        return await send(demanded)

    async def _is_plain(self, authority: str) -> bool:
        """Asks without TLS and without any login. A server that has TLS refuses that at once."""
        try:
            answer = await self._connections.send("GET", f"http://{authority}/v2/", {})
        except SourceError:
            return False
        await answer.aclose()
        return answer.status != 400


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
