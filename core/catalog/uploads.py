"""Takes blobs that clients upload into the store, and holds them there while this process runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

from corral.core.catalog.unused_blobs import discard_blobs
from corral.core.errors import Conflict, DigestMismatch
from corral.core.models.digests import Digest
from corral.core.ports.blobs import BlobStore, BlobWriter
from corral.core.ports.manifests import ManifestStore

__all__ = ("BlobUploads",)

_PIECE_BYTES = 1024 * 1024


class BlobUploads:
    """Safe for concurrent tasks. Of several uploads of one blob at once, each succeeds."""

    def __init__(self, *, manifests: ManifestStore, blobs: BlobStore) -> None:
        self._manifests = manifests
        self._blobs = blobs

    async def has(self, digest: Digest) -> bool:
        """Whether the store has the blob. If so, it is held, because the client will not upload it."""
        # Guarded: a deletion that does not know of it yet must end before the blob is looked for.
        async with self._manifests.guard(exclusive=False):
            if await self._blobs.stat(digest) is None:
                return False
            await self._blobs.hold(digest)
            return True

    async def receive(self, digest: Digest, chunks: AsyncIterable[bytes], size_bytes: int | None = None) -> None:
        """Stores the bytes if they have this digest, with a few megabytes of them in memory at a time.

        If `chunks` raises, nothing of them is kept. Raises `DigestMismatch`, `StorageError` if there are more bytes
        than `size_bytes`, `OutOfSpace`, and `Conflict` if another program deletes the blob at the same moment.
        """
        # Before it is there, so that a deletion of the same blob spares it. Guarded: one that does not know of it yet
        # must end before the blob is stored.
        async with self._manifests.guard(exclusive=False):
            await self._blobs.hold(digest)
        try:
            found = await self._store(chunks, size_bytes)
            if found != digest:
                # What is wrong here was stored under its own digest, under which nobody has asked for it.
                await discard_blobs([found], manifests=self._manifests, blobs=self._blobs)
                raise DigestMismatch(f'digest mismatch, expected "{digest}", got "{found}"')
            if await self._blobs.stat(digest) is None:
                raise Conflict(f"the blob {digest} has been deleted meanwhile", "upload it again")
        except BaseException:
            await self._blobs.release(digest)
            raise

    async def _store(self, chunks: AsyncIterable[bytes], size_bytes: int | None) -> Digest:
        # Without a digest, so that neither another upload nor a download of the blob is in the way.
        writer = await self._blobs.begin(None, size_bytes)
        try:
            await _write(writer, chunks)
            return (await writer.commit()).digest
        finally:
            await writer.abort()


async def _write(writer: BlobWriter, chunks: AsyncIterable[bytes]) -> None:
    """Writes in large pieces. One is written while the next arrives."""
    offset, piece = 0, bytearray()
    writing: asyncio.Future[None] | None = None
    try:
        async for chunk in chunks:
            piece += chunk
            if len(piece) >= _PIECE_BYTES:
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(writer.write(offset, bytes(piece)))
                offset += len(piece)
                piece.clear()
    finally:
        if writing is not None:
            await writing
    if piece:
        await writer.write(offset, bytes(piece))
