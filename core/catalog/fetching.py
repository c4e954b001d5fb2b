"""Fetches blobs into the store, each once at a time: whoever wants one that is on its way already shares it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextlib import suppress
from functools import partial
from typing import Any

from corral.core.catalog.blob_parts import ByteStream, PartsDownload
from corral.core.catalog.transfer_policy import USUAL_POLICY, TransferPolicy
from corral.core.errors import Conflict, CorralError
from corral.core.models.digests import Digest
from corral.core.ports.blobs import BlobInfo, BlobStore, BlobWriter
from corral.core.ports.sources import FetchProgress, OnProgress
from corral.core.values import Value

__all__ = ("BlobFetcher", "BlobOrigin")

_OnBytes = Callable[[int], None]
"""Gets the number of bytes that have arrived."""


class BlobOrigin(Value, frozen=True, kw_only=True):
    """Where a blob comes from. What fails at one `place` need not fail at another. `status` is the text of progress.

    Without `in_parts`, it is one stream: where seeking is slow, or ends are not known.
    """

    place: Hashable
    stream: ByteStream
    status: str
    in_parts: bool = True


class BlobFetcher:
    """For one event loop. Waits for other processes that write the same blob, and takes over if one of them dies."""

    def __init__(self, blobs: BlobStore, policy: TransferPolicy = USUAL_POLICY) -> None:
        self._blobs = blobs
        self._policy = policy
        self._streams = asyncio.Semaphore(policy.streams_at_once)
        self._downloads: dict[Digest, _Download] = {}

    async def fetch(
        self, origin: BlobOrigin, digest: Digest | None, size_bytes: int | None, on_progress: OnProgress
    ) -> BlobInfo:
        """The blob, which is fetched unless the store has it; what earlier attempts left is not fetched again.

        If this is cancelled or fails, what arrived is kept for the next attempt, except of bytes that do not have the
        digest. Raises `DigestMismatch`, `OutOfSpace`, `SourceError` and what else the stream raises.
        """

        def tell(done_bytes: int) -> None:
            on_progress(
                FetchProgress(status=origin.status, digest=digest, total_bytes=size_bytes, completed_bytes=done_bytes)
            )

        if digest is None:
            return await self._write(await self._blobs.begin(None, size_bytes), origin, size_bytes, tell)
        info = await self._blobs.stat(digest)
        if info is not None:
            tell(info.size_bytes)
        while info is None:
            download = self._downloads.get(digest) or self._start(digest, origin, size_bytes)
            try:
                info = await download.join(tell)
            except CorralError:
                if download.place == origin.place:
                    raise
        return info

    def _start(self, digest: Digest, origin: BlobOrigin, size_bytes: int | None) -> _Download:
        def forget() -> None:
            if self._downloads.get(digest) is download:
                del self._downloads[digest]

        download = _Download(origin.place, partial(self._fetch, digest, origin, size_bytes), forget)
        self._downloads[digest] = download
        return download

    async def _fetch(self, digest: Digest, origin: BlobOrigin, size_bytes: int | None, tell: _OnBytes) -> BlobInfo:
        writer = await self._begin(digest, size_bytes, tell)
        try:
            info = await self._blobs.stat(digest)
            if info is None:
                return await self._write(writer, origin, size_bytes, tell)
            await writer.abort()  # another process was faster
        finally:
            await writer.close()
        tell(info.size_bytes)
        return info

    async def _begin(self, digest: Digest, size_bytes: int | None, tell: _OnBytes) -> BlobWriter:
        """Waits while another process writes the blob, or another part of this one, and tells how far it is."""
        while True:
            try:
                return await self._blobs.begin(digest, size_bytes)
            except Conflict:
                tell(sum(end - start for start, end in await self._blobs.partial(digest)))
                await asyncio.sleep(self._policy.poll_s)

    async def _write(self, writer: BlobWriter, origin: BlobOrigin, size_bytes: int | None, tell: _OnBytes) -> BlobInfo:
        try:
            await PartsDownload(
                writer,
                origin.stream,
                size_bytes,
                policy=self._policy,
                streams=self._streams,
                arrived=tell,
                in_parts=origin.in_parts,
            ).run()
            return await writer.commit()
        finally:
            await writer.close()


class _Download:
    """A blob on its way, and those who wait for it. It is cancelled when the last of them leaves."""

    def __init__(
        self, place: Hashable, work: Callable[[_OnBytes], Coroutine[Any, Any, BlobInfo]], over: Callable[[], None]
    ) -> None:
        """`over` is called as soon as nobody may join any more, perhaps twice."""
        self.place = place
        self._over = over
        self._watchers: list[_OnBytes] = []
        self._done_bytes = -1  # nothing is known yet
        self._task = asyncio.create_task(work(self._tell))
        self._task.add_done_callback(self._end)

    async def join(self, watcher: _OnBytes) -> BlobInfo:
        """Waits for the blob. Tells how far it is, and then how it goes on."""
        self._watchers.append(watcher)
        try:
            if self._done_bytes >= 0:
                watcher(self._done_bytes)
            return await asyncio.shield(self._task)
        finally:
            self._watchers.remove(watcher)
            if not self._watchers and not self._task.done():
                self._over()
                self._task.cancel()
                while not self._task.done():
                    with suppress(asyncio.CancelledError):  # whoever is cancelled again waits all the same
                        await asyncio.wait([self._task])

    def _tell(self, done_bytes: int) -> None:
        """Progress never goes backward, whatever another process does."""
        if done_bytes > self._done_bytes:
            self._done_bytes = done_bytes
            for watcher in tuple(self._watchers):
                watcher(done_bytes)

    def _end(self, task: asyncio.Task[BlobInfo]) -> None:
        self._over()
        if not task.cancelled():
            task.exception()  # those who wait have it; if nobody does, nobody asks
