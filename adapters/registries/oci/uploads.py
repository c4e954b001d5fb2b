"""Sends one blob: in pieces that can be sent again where a registry takes them, otherwise in one go."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress

from corral.adapters.registries.oci.addressing import Place
from corral.adapters.registries.oci.connection_pool import Body, Response
from corral.adapters.registries.oci.exchange import RegistryExchange
from corral.adapters.registries.oci.one_request import OneRequest
from corral.adapters.registries.oci.upload_session import UploadSession, arrived_of
from corral.core.errors import CorralError, DigestMismatch, NotFound, SourceError, SourceUnavailable
from corral.core.models.digests import Digest

__all__ = ("BlobUpload",)

PAUSES_S = (0.0, 0.1, 0.4, 1.6, 6.4)
"""Before each attempt to send a piece."""
_DONE = (200, 201, 202, 204)
_REDIRECTS = (301, 302, 307, 308)
_NO_PIECES = (400, 404, 405, 411, 413, 415, 501)
"""What registries answer that do not take pieces, or not of this size."""


class BlobUpload:
    """A `RemoteWriter`. Bytes are held until a piece is full, and until the registry has confirmed it.

    A blob that is one piece goes with the request that publishes it.
    """

    def __init__(
        self,
        exchange: RegistryExchange,
        place: Place,
        digest: Digest,
        size_bytes: int,
        *,
        session: UploadSession,
        chunk_bytes: int,
        silence_s: float,
    ) -> None:
        self._exchange = exchange
        self._place = place
        self._digest = digest
        self._size_bytes = size_bytes
        self._session = session
        self._chunk_bytes = max(chunk_bytes, session.least_chunk_bytes)
        self._silence_s = silence_s
        self._hash = hashlib.sha256()
        self._taken_bytes = 0
        self._held: list[bytes] = []
        self._sent_bytes = 0
        self._stored_parts: list[bytes] = []
        self._whole: OneRequest | None = None
        self._is_open = True

    async def write(self, data: bytes) -> None:
        self._require_open()
        if self._taken_bytes + len(data) > self._size_bytes:
            raise SourceError(f"the blob {self._digest} is longer than the announced {self._size_bytes} bytes")
        self._taken_bytes += len(data)
        self._hash.update(data)
        if self._whole is not None:
            await self._whole.write(data)
            return
        self._held.append(data)
        if self._held_bytes >= self._chunk_bytes and self._taken_bytes < self._size_bytes:
            await self._send_held()

    async def commit(self) -> None:
        self._require_open()
        if self._taken_bytes < self._size_bytes:
            raise SourceError(f"the blob {self._digest} is incomplete: {self._taken_bytes} of {self._size_bytes} bytes")
        found = f"sha256:{self._hash.hexdigest()}"
        if found != self._digest:
            raise DigestMismatch(f'digest mismatch, expected "{self._digest}", got "{found}"')
        if self._whole is not None:
            answer = await self._whole.finish()
        elif self._sent_bytes == 0 and not self._stored_parts:
            answer = await self._finish(_repeatable(self._held), self._held_bytes)
        else:
            if self._held:
                await self._send_held()
            answer = await self._finish(None, 0)
        if answer.status not in _DONE:
            raise await self._refusal(answer)
        await answer.aclose()
        self._is_open = False
        self._held = []

    async def abort(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._held = []
        if self._whole is not None:
            await self._whole.abort()
        await self._session.cancel()

    @property
    def _held_bytes(self) -> int:
        return sum(map(len, self._held))

    def _require_open(self) -> None:
        if not self._is_open:
            raise SourceError("this upload has ended", "begin another one")

    async def _send_held(self) -> None:
        """Sends what is held, and again what of it did not arrive."""
        first, end = self._sent_bytes, self._sent_bytes + self._held_bytes
        broken: SourceUnavailable | None = None
        for pause_s in PAUSES_S:
            if broken is not None:
                await asyncio.sleep(pause_s)
            try:
                if broken is not None and not await self._has_found_its_place(first, end):
                    break
                while self._whole is None and self._sent_bytes < end:
                    before = self._sent_bytes
                    await self._send_piece(first, end)
                    if self._sent_bytes == before and self._whole is None:
                        raise SourceUnavailable(f"{self._place.host} takes no more of the blob {self._digest}")
                self._held = []
                return
            except SourceUnavailable as fault:
                broken = fault
        assert broken is not None
        raise broken

    async def _send_piece(self, first: int, end: int) -> None:
        """Sends what is held from `_sent_bytes` on. Raises `SourceUnavailable` if it may be sent again."""
        rest = _without(self._held, self._sent_bytes - first)
        answer = await self._session.patch(_repeatable(rest), end - self._sent_bytes, self._sent_bytes)
        if answer.status in _REDIRECTS and answer.headers.get("location"):
            await self._store(answer, rest)
        elif answer.status in _DONE:
            await answer.aclose()
            self._session.moved(answer)
            # Older registries do not say how much they have, and have all of it.
            self._sent_bytes = max(first, min(arrived_of(answer) or end, end))
        elif answer.status == 416:
            self._session.moved(answer)
            raise SourceUnavailable((await self._refusal(answer)).message, "push again")
        elif answer.status in _NO_PIECES and first == 0:
            await answer.aclose()
            await self._send_whole()
        else:
            raise await self._refusal(answer)

    async def _has_found_its_place(self, first: int, end: int) -> bool:
        """Asks how much has arrived. False if the registry has lost the upload, or an earlier piece of it."""
        arrived = await self._session.arrived_bytes()
        if arrived is None or not first <= arrived <= end:
            return False
        self._sent_bytes = arrived
        return True

    async def _store(self, answer: Response, pieces: list[bytes]) -> None:
        """After a redirect: the piece goes to a storage, by an address that the registry has signed."""
        await answer.aclose()
        location = answer.headers["location"]
        stored = await self._session.put_elsewhere(location, _repeatable(pieces), sum(map(len, pieces)))
        if stored.status not in _DONE:
            raise await self._refusal(stored)
        await stored.aclose()
        if upload := answer.headers.get("docker-upload-location"):
            self._session.go_to(upload)
        checksum = hashlib.md5(usedforsecurity=False)
        for piece in pieces:
            checksum.update(piece)
        self._stored_parts.append(checksum.digest())
        self._sent_bytes += sum(map(len, pieces))
        self._held = []

    async def _send_whole(self) -> None:
        """Starts anew, with one request that carries everything from the first byte on."""
        with suppress(SourceError):
            await self._session.cancel()
        self._session = await UploadSession.start(self._exchange, self._place)
        self._whole = OneRequest(
            lambda body: self._finish(body, self._size_bytes), f"{self._place.host} ended the upload early"
        )
        for piece in self._held:
            await self._whole.write(piece)

    async def _finish(self, body: Body | None, size_bytes: int) -> Response:
        return await self._session.finish(self._digest, body, size_bytes, etag=self._etag(), silence_s=self._silence_s)

    def _etag(self) -> str | None:
        """What a storage calls a blob of several parts: the checksum of their checksums, and their number."""
        if not self._stored_parts:
            return None
        together = hashlib.md5(b"".join(self._stored_parts), usedforsecurity=False).hexdigest()
        return f"{together}-{len(self._stored_parts)}"

    async def _refusal(self, answer: Response) -> CorralError:
        error = await self._exchange.refused(answer, self._place, f"the upload of {self._digest}")
        if isinstance(error, NotFound):
            return SourceError(f"404: {error.message}", error.remedy)
        return error


def _without(pieces: list[bytes], skip: int) -> list[bytes]:
    """The pieces after their first `skip` bytes."""
    rest = []
    for piece in pieces:
        if skip < len(piece):
            rest.append(piece[skip:] if skip else piece)
        skip = max(0, skip - len(piece))
    return rest


def _repeatable(pieces: list[bytes]) -> Body:
    kept = tuple(pieces)

    async def body() -> AsyncIterator[bytes]:
        for piece in kept:
            yield piece

    return body
