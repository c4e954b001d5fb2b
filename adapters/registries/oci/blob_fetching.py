"""Fetches blobs by ranges, from registries that know ranges and from those that do not."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from corral.adapters.registries.oci.addressing import Place
from corral.adapters.registries.oci.blob_locations import BlobLocations
from corral.adapters.registries.oci.connection_pool import Response
from corral.adapters.registries.oci.exchange import RegistryExchange, pull_scope, push_scope
from corral.core.errors import (
    BlobNotFound,
    CorralError,
    NotFound,
    RangesIgnored,
    SourceError,
    SourceUnavailable,
    Unsupported,
)
from corral.core.models.digests import Digest

__all__ = ("Blobs",)

_CHUNK_BYTES = 1024 * 1024
_LARGE_BYTES = 128 * 1024
"""Worth being handed on as it is: joining copies it."""
_HOLD_S = 0.1
_RANGE = re.compile(r"bytes\s+(?:(?P<first>\d+)-(?P<last>\d+)|\*)/(?P<total>\d+|\*)", re.IGNORECASE)


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
            length = answer.headers.get("content-length", "")
            return int(length) if length.isdecimal() else -1
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
            if answer.status == 416 and start > 0:
                _refuse_beyond(answer, place, blob, start)
                return
            if answer.status not in (200, 206):
                raise await self._refusal(answer, place, blob)
            if answer.status == 200 and start > 0:
                raise RangesIgnored(f"{place.host} sends the blob {blob} only from its beginning", "fetch all of it")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise SourceError(f"{place.host} compresses blobs on the way, although it was asked not to")
            last = _sent_end(answer, place, start)
            async with aclosing(_bounded(answer.chunks(), end, start)) as pieces:
                async for piece in _joined(pieces):
                    start += len(piece)
                    yield piece
        finally:
            await answer.aclose()
        due = min(one for one in (end, last) if one is not None) if (end, last) != (None, None) else start
        if start < due:
            raise SourceUnavailable(f"{place.host} broke off the blob {blob} at byte {start} of {due}", "try again")

    async def _refusal(self, answer: Response, place: Place, blob: Digest) -> CorralError:
        error = await self._exchange.refused(answer, place, f"the blob {blob}")
        if isinstance(error, NotFound):
            return BlobNotFound(f"'{place.host}/{place.repository}' has no blob {blob}", error.remedy)
        return error


async def _bounded(chunks: AsyncGenerator[bytes, None], end: int | None, start: int) -> AsyncGenerator[bytes, None]:
    """The first chunk begins at `start`; without what comes at `end` or later."""
    left = None if end is None else end - start
    async with aclosing(chunks):
        async for chunk in chunks:
            if left is not None:
                chunk = chunk[:left]
                left -= len(chunk)
            if chunk:
                yield chunk
            if left == 0:
                return


async def _joined(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Chunks of at most 1 MiB: what has come so far, if that is enough or has waited long enough.

    What has come is handed on even if the rest never does.
    """
    held: list[bytes] = []
    size_bytes, since_s = 0, 0.0
    try:
        async for piece in pieces:
            if held and (len(piece) >= _LARGE_BYTES or size_bytes + len(piece) > _CHUNK_BYTES):
                yield b"".join(held)
                held, size_bytes = [], 0
            if len(piece) >= _LARGE_BYTES:
                yield piece
                continue
            now_s = time.monotonic()
            since_s = since_s if held else now_s
            held.append(piece)
            size_bytes += len(piece)
            if now_s - since_s > _HOLD_S:
                yield b"".join(held)
                held, size_bytes = [], 0
    except SourceUnavailable:
        if held:
            yield b"".join(held)
        raise
    if held:
        yield b"".join(held)


def _sent_end(answer: Response, place: Place, start: int) -> int | None:
    """The size of the blob, or else where the answer ends; None if neither is known.

    Raises `SourceError` if it does not begin where it was asked to.
    """
    length = answer.headers.get("content-length", "")
    if answer.status == 200:
        return int(length) if length.isdecimal() else None
    stated = answer.headers.get("content-range", "")
    match = _RANGE.fullmatch(stated.strip())
    if match is None or match["first"] is None or int(match["first"]) != start:
        raise SourceError(f"{place.host} was asked for bytes from {start}, and sent {stated[:80] or 'others'!r}")
    # A registry may send less than it was asked for: then the blob's size says what is missing.
    return int(match["total"]) if match["total"].isdecimal() else int(match["last"]) + 1


def _refuse_beyond(answer: Response, place: Place, blob: Digest, start: int) -> None:
    """After 416: nothing is missing if the blob ends where the range would begin. Raises `SourceError` otherwise."""
    match = _RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    total = match["total"] if match else "*"
    if total.isdecimal() and int(total) <= start:
        return
    raise SourceError(f"{place.host} does not send the blob {blob} from byte {start}: 416")
