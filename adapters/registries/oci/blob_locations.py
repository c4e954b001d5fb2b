"""Where blobs are fetched: at the registry, or at the signed address that it last redirected to."""

from __future__ import annotations

from urllib.parse import urlsplit

from corral.adapters.registries.oci.addressing import Place
from corral.adapters.registries.oci.connection_pool import Response
from corral.adapters.registries.oci.exchange import RegistryExchange, pull_scope
from corral.core.lru import LruDict
from corral.core.models.digests import Digest

__all__ = ("BlobLocations",)

_REMEMBERED = 1024
_FETCHED = (200, 206, 416)


class BlobLocations:
    """Parts of one blob are asked for at one address, until that refuses: signed addresses expire."""

    def __init__(self, exchange: RegistryExchange) -> None:
        self._exchange = exchange
        self._elsewhere: LruDict[tuple[str, str, Digest], str] = LruDict(_REMEMBERED)

    async def open(self, place: Place, blob: Digest, headers: dict[str, str]) -> Response:
        """The answer, whatever its status, from the last place that a redirect leads to."""
        key = (place.authority, place.repository, blob)
        known = self._elsewhere.get(key)
        if known:
            self._elsewhere.put(key, "")  # until it has answered
            answer = await self._exchange.send(place, "GET", known, (), headers=headers)
            if answer.status in _FETCHED:
                self._elsewhere.put(key, known)
                return answer
            await answer.aclose()
        path = f"/v2/{place.repository}/blobs/{blob}"
        answer = await self._exchange.send(place, "GET", path, (pull_scope(place),), headers=headers, follow=True)
        if answer.status in _FETCHED and urlsplit(answer.url).netloc != place.authority:
            self._elsewhere.put(key, answer.url)
        return answer
