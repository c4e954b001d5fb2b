"""Sends the pieces of a blob in order: again what was lost of one, and in one go if a registry takes no pieces."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence

from corral.adapters.registries.oci.addressing import Place
from corral.adapters.registries.oci.connection_pool import Body, Response
from corral.adapters.registries.oci.exchange import RegistryExchange, push_scope
from corral.adapters.registries.oci.one_request import OneRequest
from corral.adapters.registries.oci.upload_session import UploadSession, arrived_of
from corral.core.errors import CorralError, NotFound, SourceError, SourceStalled, SourceUnavailable
from corral.core.models.digests import Digest

__all__ = ("PieceSender",)

PAUSES_S = (0.0, 0.1, 0.4, 1.6, 6.4)
"""Before each attempt to send a piece."""
_DONE = (200, 201, 202, 204)
_REDIRECTS = (301, 302, 307, 308)
_NO_PIECES = (400, 404, 405, 411, 413, 415, 501)
"""What registries answer that do not take pieces, or not of this size."""


class PieceSender:
    """One upload. Its methods are called one after the other; everything raises `SourceError`."""

    def __init__(
        self,
        exchange: RegistryExchange,
        place: Place,
        digest: Digest,
        size_bytes: int,
        session: UploadSession,
        silence_s: float,
    ) -> None:
        """`silence_s` is how long the registry may take to check the whole."""
        self._exchange = exchange
        self._place = place
        self._digest = digest
        self._size_bytes = size_bytes
        self._session = session
        self._silence_s = silence_s
        self._sent_bytes = 0
        self._stored_parts: list[bytes] = []
        self._whole: OneRequest | None = None

    async def send(self, pieces: Sequence[bytes]) -> None:
        """Returns when the registry has them, or when they are on their way in one request."""
        if self._whole is not None:
            await self._write_whole(pieces)
            return
        first, end = self._sent_bytes, self._sent_bytes + sum(map(len, pieces))
        broken: SourceUnavailable | None = None
        for pause_s in PAUSES_S:
            if broken is not None:
                await asyncio.sleep(pause_s)
            try:
                if broken is not None and not await self._has_found_its_place(first, end):
                    break
                while self._whole is None and self._sent_bytes < end:
                    before = self._sent_bytes
                    await self._send_rest(pieces, first, end)
                    if self._sent_bytes == before and self._whole is None:
                        raise SourceUnavailable(f"{self._place.host} takes no more of the blob {self._digest}")
                return
            except SourceUnavailable as fault:
                broken = fault
        assert broken is not None
        raise broken

    async def finish(self, pieces: Sequence[bytes] | None = None) -> None:
        """Publishes the blob: what was sent, or else `pieces`, which are all of it.

        If only the request for it is lost, for example with a connection that was kept too long, it is sent again.
        """
        broken: SourceUnavailable | None = None
        for pause_s in PAUSES_S:
            if broken is not None:
                await asyncio.sleep(pause_s)
            try:
                await self._ask_for_blob(pieces)
                return
            except SourceUnavailable as fault:
                if await self._is_there():  # it may have been published, and only the answer lost
                    return
                if isinstance(fault, SourceStalled) or not await self._may_ask_again(pieces):
                    raise
                broken = fault
        assert broken is not None
        raise broken

    async def _ask_for_blob(self, pieces: Sequence[bytes] | None) -> None:
        if self._whole is not None:
            answer = await self._whole.finish()
        elif pieces is not None:
            answer = await self._finish(_repeatable(pieces), self._size_bytes)
        else:
            answer = await self._finish(None, 0)
        if answer.status not in _DONE:
            raise await self._refusal(answer)
        await answer.aclose()

    async def _may_ask_again(self, pieces: Sequence[bytes] | None) -> bool:
        """Whether the registry still has exactly what it had before it was asked for the blob."""
        if self._whole is not None:
            return False
        return await self._session.arrived_bytes() == (0 if pieces is not None else self._size_bytes)

    async def abort(self) -> None:
        """Drops what the registry has of it."""
        if self._whole is not None:
            await self._whole.abort()
        await self._session.cancel()

    async def _send_rest(self, pieces: Sequence[bytes], first: int, end: int) -> None:
        """Sends the pieces from `_sent_bytes` on. Raises `SourceUnavailable` if they may be sent again."""
        rest = _without(pieces, self._sent_bytes - first)
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
            await self._start_whole(pieces)
        else:
            raise await self._refusal(answer)

    async def _has_found_its_place(self, first: int, end: int) -> bool:
        """Asks how much has arrived. False if the registry has lost the upload, or an earlier piece of it."""
        arrived = await self._session.arrived_bytes()
        if arrived is None or not first <= arrived <= end:
            return False
        self._sent_bytes = arrived
        return True

    async def _store(self, answer: Response, pieces: Sequence[bytes]) -> None:
        """After a redirect: the piece goes to a storage, by an address that the registry has signed."""
        await answer.aclose()
        location = answer.headers["location"]
        stored = await self._session.put_elsewhere(location, _repeatable(pieces), sum(map(len, pieces)))
        if stored.status not in _DONE:
            raise await self._refusal(stored)
        await stored.aclose()
        if upload := answer.headers.get("docker-upload-location"):
            self._session.go_to(upload)
        checksum = await asyncio.to_thread(_checksum, pieces)
        self._stored_parts.append(checksum)
        self._sent_bytes += sum(map(len, pieces))

    async def _start_whole(self, pieces: Sequence[bytes]) -> None:
        """Starts anew, with one request that carries everything from the first byte on."""
        await self._session.cancel()
        self._session = await UploadSession.start(self._exchange, self._place)
        self._whole = OneRequest(
            lambda body: self._finish(body, self._size_bytes), f"{self._place.host} ended the upload early"
        )
        await self._write_whole(pieces)

    async def _write_whole(self, pieces: Sequence[bytes]) -> None:
        assert self._whole is not None
        for piece in pieces:
            await self._whole.write(piece)

    async def _is_there(self) -> bool:
        path = f"/v2/{self._place.repository}/blobs/{self._digest}"
        answer = await self._exchange.send(self._place, "HEAD", path, (push_scope(self._place),), follow=True)
        await answer.aclose()
        return answer.status == 200

    async def _finish(self, body: Body | None, size_bytes: int) -> Response:
        return await self._session.finish(self._digest, body, size_bytes, etag=self._etag(), silence_s=self._silence_s)

    def _etag(self) -> str | None:
        """What a storage calls a blob of several parts: the checksum of their checksums, and their number."""
        if not self._stored_parts:
            return None
        together = _checksum(self._stored_parts).hex()
        return f"{together}-{len(self._stored_parts)}"

    async def _refusal(self, answer: Response) -> CorralError:
        error = await self._exchange.refused(answer, self._place, f"the upload of {self._digest}")
        if isinstance(error, NotFound):
            return SourceError(f"404: {error.message}", error.remedy)
        return error


def _without(pieces: Sequence[bytes], skip: int) -> list[bytes]:
    """The pieces after their first `skip` bytes."""
    rest = []
    for piece in pieces:
        if skip < len(piece):
            rest.append(piece[skip:] if skip else piece)
        skip = max(0, skip - len(piece))
    return rest


def _repeatable(pieces: Sequence[bytes]) -> Body:
    kept = tuple(pieces)

    async def body() -> AsyncIterator[bytes]:
        for piece in kept:
            yield piece

    return body


def _checksum(pieces: Sequence[bytes]) -> bytes:
    checksum = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        checksum.update(piece)
    return checksum.digest()
