"""The session of one upload at a registry: where it goes on, and how the registry wants its pieces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress

from corral.adapters.registries.oci.addressing import Place
from corral.adapters.registries.oci.connection_pool import Body, Response
from corral.adapters.registries.oci.exchange import RegistryExchange, pull_scope, push_scope
from corral.adapters.registries.oci.header_values import stated_number
from corral.core.errors import NotFound, SourceError
from corral.core.models.digests import Digest

__all__ = ("UploadSession", "arrived_of", "mount_blob")

_MOST_CHUNK_BYTES = 1024 * 1024 * 1024
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")


class UploadSession:
    """Started with `start`. Its address changes with every answer (distribution-spec, "Pushing blobs")."""

    def __init__(self, exchange: RegistryExchange, place: Place, answer: Response, base: str) -> None:
        """`answer` is the one that started it. Raises `SourceError` if it does not say where the upload goes on."""
        self._exchange = exchange
        self._place = place
        self._base = base
        self._url = answer.url
        self.least_chunk_bytes = stated_number(answer.headers.get("oci-chunk-min-length")) or 0
        if self.least_chunk_bytes > _MOST_CHUNK_BYTES:  # a chunk is in memory until it has arrived
            raise SourceError(f"{place.host} wants chunks of {self.least_chunk_bytes} bytes, which no chunk can be")
        if not self.moved(answer):
            raise SourceError(f"{place.host} does not say where the upload goes on")

    @classmethod
    async def start(cls, exchange: RegistryExchange, place: Place) -> UploadSession:
        """A new session. Raises `SourceError`."""
        path = f"/v2/{place.repository}/blobs/uploads/"
        answer = await exchange.send(place, "POST", path, (push_scope(place),))
        if answer.status not in (201, 202):
            error = await exchange.refused(answer, place, f"'{place.host}/{place.repository}'")
            raise SourceError(f"404: {error.remedy}", "check the name") if isinstance(error, NotFound) else error
        await answer.aclose()
        return cls(exchange, place, answer, await exchange.base(place))

    def moved(self, answer: Response) -> bool:
        """Notes the address for what comes next. False if the answer has none: then the last one stays."""
        location = answer.headers.get("docker-upload-location") or answer.headers.get("location")
        if location:
            self._url = self._exchange.resolved(self._base, answer.url, location)
        return bool(location)

    def go_to(self, location: str) -> None:
        """The upload goes on there."""
        self._url = self._exchange.resolved(self._base, self._url, location)

    async def patch(self, body: Body, size_bytes: int, start: int) -> Response:
        """Sends the piece that begins at `start`. The answer may send it elsewhere (307), for which we say we know."""
        return await self._send(
            "PATCH",
            self._url,
            {
                "content-type": "application/octet-stream",
                "content-range": f"{start}-{start + size_bytes - 1}",
                "x-redirect-uploads": "1",
            },
            body,
            size_bytes,
        )

    async def put_elsewhere(self, location: str, body: Body, size_bytes: int) -> Response:
        """Sends a piece to the storage that a registry named. The address is signed: nothing else is shown."""
        url = self._exchange.resolved(self._base, self._url, location)
        return await self._send("PUT", url, {"content-type": "application/octet-stream"}, body, size_bytes)

    async def finish(
        self, digest: Digest, body: Body | None, size_bytes: int, *, etag: str | None, silence_s: float
    ) -> Response:
        """Asks for the blob, with all of it as `body` or with nothing."""
        more = f"&etag={etag}" if etag else ""
        separator = "&" if "?" in self._url else "?"
        url = f"{self._url}{separator}digest={digest.replace(':', '%3A')}{more}"
        headers = {"content-type": "application/octet-stream"}
        return await self._send("PUT", url, headers, body, size_bytes, silence_s)

    async def arrived_bytes(self) -> int | None:
        """How much the registry has. None if it does not know the upload, or does not say."""
        answer = await self._send("GET", self._url, {}, None, None)
        await answer.aclose()
        if answer.status not in (200, 202, 204):
            return None
        self.moved(answer)
        return arrived_of(answer)

    async def cancel(self) -> None:
        """Drops what has arrived. A registry that cannot do so will do it later by itself."""
        with suppress(SourceError):
            answer = await self._send("DELETE", self._url, {}, None, None)
            await answer.aclose()

    async def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        size_bytes: int | None,
        silence_s: float | None = None,
    ) -> Response:
        return await self._exchange.send(
            self._place,
            method,
            url,
            (push_scope(self._place),),
            headers=headers,
            body=body,
            size_bytes=size_bytes,
            silence_s=silence_s,
        )


def arrived_of(answer: Response) -> int | None:
    """The number of bytes in ``Range: 0-LAST``. None if there is none.

    An upload without bytes is ``0-0``, like one with a single byte: the registry is asked for more than it lacks then,
    never for less.
    """
    match = _RANGE.fullmatch(answer.headers.get("range", "").strip())
    return None if match is None else int(match[1]) + 1 if int(match[1]) else 0


async def mount_blob(exchange: RegistryExchange, place: Place, blob: Digest, source: Place) -> bool:
    """Asks the registry to take a blob over from another of its repositories. False if it does not."""
    path = f"/v2/{place.repository}/blobs/uploads/?mount={blob.replace(':', '%3A')}&from={source.repository}"
    try:
        answer = await exchange.send(place, "POST", path, (push_scope(place), pull_scope(source)))
    except SourceError:  # no token for both: the blob may still be sent
        return False
    await answer.aclose()
    if answer.status == 202:  # it has started an upload instead
        with suppress(SourceError):
            await UploadSession(exchange, place, answer, await exchange.base(place)).cancel()
    return answer.status == 201
