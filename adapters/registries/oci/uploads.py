"""One blob on its way to a registry: collected into pieces, one of which is sent meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from corral.adapters.registries.oci.piece_sending import PieceSender
from corral.core.errors import CorralError, SourceError
from corral.core.models.digests import Digest

__all__ = ("BlobUpload",)


class BlobUpload:
    """A `RemoteWriter`. A piece stays in memory until the registry has it. What fails is raised by the next call.
    The digest is checked by the registry, which has to do that: hashing here too would cost more than sending.

    `whole_in_one`: a blob that fits into one piece goes with the request that publishes it.
    """

    def __init__(
        self, sender: PieceSender, digest: Digest, size_bytes: int, *, piece_bytes: int, whole_in_one: bool
    ) -> None:
        self._sender = sender
        self._digest = digest
        self._size_bytes = size_bytes
        self._piece_bytes = piece_bytes
        self._may_be_whole = whole_in_one
        self._taken_bytes = 0
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._sending: asyncio.Task[None] | None = None
        self._is_open = True

    async def write(self, data: bytes) -> None:
        self._require_open()
        if self._taken_bytes + len(data) > self._size_bytes:
            raise SourceError(f"the blob {self._digest} is longer than the announced {self._size_bytes} bytes")
        self._taken_bytes += len(data)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes >= self._piece_bytes and self._taken_bytes < self._size_bytes:
            await self._settle()
            self._sending = asyncio.create_task(self._sender.send(self._let_go()))
            self._may_be_whole = False

    async def commit(self) -> None:
        self._require_open()
        if self._taken_bytes < self._size_bytes:
            raise SourceError(f"the blob {self._digest} is incomplete: {self._taken_bytes} of {self._size_bytes} bytes")
        await self._settle()
        if self._may_be_whole:
            await self._sender.finish(self._held)
        else:
            if self._held:
                await self._sender.send(self._let_go())
            await self._sender.finish()
        self._is_open = False
        self._let_go()

    async def abort(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._let_go()
        if self._sending is not None:
            self._sending.cancel()
            with suppress(asyncio.CancelledError, CorralError):
                await self._sending
        await self._sender.abort()

    def _require_open(self) -> None:
        if not self._is_open:
            raise SourceError("this upload has ended", "begin another one")

    def _let_go(self) -> list[bytes]:
        held, self._held, self._held_bytes = self._held, [], 0
        return held

    async def _settle(self) -> None:
        """Waits for the piece that is being sent. Raises what went wrong with it."""
        if self._sending is not None:
            await self._sending
            self._sending = None
