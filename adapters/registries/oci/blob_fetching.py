"""Fetches blobs by ranges, from registries that know ranges and from those that do not."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from corral.adapters.registries.oci.addressing import Place
from corral.adapters.registries.oci.blob_locations import BlobLocations
from corral.adapters.registries.oci.connection_pool import Response
from corral.adapters.registries.oci.exchange import RegistryExchange, pull_scope, push_scope
from corral.adapters.registries.oci.header_values import stated_number
from corral.adapters.registries.oci.ranged_bodies import ranged_body
from corral.core.errors import BlobNotFound, CorralError, NotFound, Unsupported
from corral.core.models.digests import Digest

__all__ = ("Blobs",)


class Blobs:
    """The blobs of registries, without their uploads."""

    def __init__(self, exchange: RegistryExchange) -> None:
        self._exchange = exchange
        self._locations = BlobLocations(exchange)

    async def size_bytes(self, place: Place, blob: Digest) -> int | None:
        """None if the repository does not have it; -1 if the registry does not say how large it is."""
        path = f"/v2/{place.repository}/blobs/{blob}"
        answer = await self._exchange.send(place, "HEAD", path, (pull_scope(place),), follow=True)
        try:
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise await self._exchange.refused(answer, place, f"the blob {blob}")
            size_bytes = stated_number(answer.headers.get("content-length"))
            return -1 if size_bytes is None else size_bytes
        finally:
            await answer.aclose()

    async def delete(self, place: Place, blob: Digest) -> None:
        """Raises `BlobNotFound`, and `Unsupported` if the registry deletes no blobs."""
        scope = f"{push_scope(place)},delete"
        answer = await self._exchange.send(place, "DELETE", f"/v2/{place.repository}/blobs/{blob}", (scope,))
        if answer.status in (405, 501):
            await answer.aclose()
            raise Unsupported(f"{place.host} does not delete blobs", "whoever runs it can allow that")
        if answer.status not in (200, 202, 204):
            raise await self._refusal(answer, place, blob)
        await answer.aclose()

    async def fetch(self, place: Place, blob: Digest, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        """As `Registry.fetch`."""
        if end is not None and end <= start:
            return
        wanted = {} if start == 0 and end is None else {"range": f"bytes={start}-{'' if end is None else end - 1}"}
        answer = await self._locations.open(place, blob, wanted)
        try:
            if answer.status not in (200, 206) and (answer.status != 416 or start == 0):
                raise await self._refusal(answer, place, blob)
            async with aclosing(ranged_body(answer, place.host, f"the blob {blob}", start, end)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            await answer.aclose()

    async def _refusal(self, answer: Response, place: Place, blob: Digest) -> CorralError:
        error = await self._exchange.refused(answer, place, f"the blob {blob}")
        if isinstance(error, NotFound):
            return BlobNotFound(f"'{place.host}/{place.repository}' has no blob {blob}", error.remedy)
        return error
