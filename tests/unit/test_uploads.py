"""Uploads into a blob store: how much of one is held, and what is left of one that fails."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.stores.filesystem import FilesystemBlobs, FilesystemManifests
from corral.adapters.stores.memory import MemoryBlobs, MemoryManifests
from corral.core.catalog.unused_blobs import delete_unused
from corral.core.catalog.uploads import BlobUploads
from corral.core.errors import Conflict, DigestMismatch, StorageError
from corral.core.models.digests import Digest, digest_of
from corral.core.ports.blobs import BlobInfo, BlobWriter

PIECE = bytes(64 * 1024)
PIECES = 200


class Forgetful(MemoryBlobs):
    """Hashes what is written, and keeps nothing of it; says how many bytes it got."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0
        self.total = hashlib.sha256()

    async def begin(self, digest: Digest | None = None, size_bytes: int | None = None) -> BlobWriter:
        return _Counting(self)  # type: ignore[return-value]  # has all that is used here

    async def stat(self, digest: Digest) -> BlobInfo | None:
        return BlobInfo(digest=digest, size_bytes=self.written)


class _Counting:
    def __init__(self, store: Forgetful) -> None:
        self._store = store

    async def write(self, offset_bytes: int, data: bytes) -> None:
        assert offset_bytes == self._store.written
        await asyncio.sleep(0)
        self._store.written += len(data)
        self._store.total.update(data)

    async def commit(self) -> BlobInfo:
        digest = Digest(f"sha256:{self._store.total.hexdigest()}")
        return BlobInfo(digest=digest, size_bytes=self._store.written)

    async def abort(self) -> None: ...


async def pieces(data: bytes, size: int = 1000) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def files(folder: Path) -> list[Path]:
    """Everything with content, wherever it is below the folder."""
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def test_how_much_is_held() -> None:
    """At any time, what has arrived and is not written yet is less than three megabytes, however large the blob is."""

    async def scenario() -> None:
        store, arrived, most = Forgetful(), 0, 0

        async def body() -> AsyncGenerator[bytes, None]:
            nonlocal arrived, most
            for _ in range(PIECES):
                arrived += len(PIECE)
                most = max(most, arrived - store.written)
                yield PIECE

        uploads = BlobUploads(manifests=MemoryManifests(), blobs=store)
        await uploads.receive(digest_of(PIECE * PIECES), body())
        assert store.written == len(PIECE) * PIECES
        assert most < 3 * 1024 * 1024

    asyncio.run(scenario())


def test_an_upload_is_held_in_the_store(either_store: tuple[Any, Any]) -> None:
    """A blob that was uploaded, and one that a client was told about, are held; others are not."""
    blobs, manifests = either_store

    async def scenario() -> None:
        uploads = BlobUploads(manifests=manifests, blobs=blobs)
        await uploads.receive(digest_of(b"abc"), pieces(b"abc", 1), 3)
        writer = await blobs.begin()
        await writer.write(0, b"told")
        told = (await writer.commit()).digest
        assert await blobs.held() == {digest_of(b"abc")}
        assert await uploads.has(told)
        assert not await uploads.has(digest_of(b"absent"))
        assert await blobs.held() == {digest_of(b"abc"), told}

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", [RuntimeError, asyncio.CancelledError])
def test_nothing_stays_of_what_breaks_off(tmp_path: Path, fault: type[BaseException]) -> None:
    """If the bytes stop coming, what has arrived is removed, and the blob can be uploaded again."""

    async def scenario() -> None:
        blobs = FilesystemBlobs(tmp_path)
        uploads = BlobUploads(manifests=FilesystemManifests(tmp_path), blobs=blobs)
        data = bytes(3_000_000)

        async def broken() -> AsyncGenerator[bytes, None]:
            async for piece in pieces(data[:-1], 500_000):
                yield piece
            raise fault

        with pytest.raises(fault):
            await uploads.receive(digest_of(data), broken(), len(data))
        assert files(tmp_path) == []
        await uploads.receive(digest_of(data), pieces(data, 500_000), len(data))
        assert await blobs.stat(digest_of(data)) is not None

    asyncio.run(scenario())


def test_more_bytes_than_announced(either_store: tuple[Any, Any]) -> None:
    """A body that is longer or shorter than its length, or not what its digest says, is refused."""
    blobs, manifests = either_store

    async def scenario() -> None:
        uploads = BlobUploads(manifests=manifests, blobs=blobs)
        for announced in (2, 4):
            with pytest.raises(StorageError):
                await uploads.receive(digest_of(b"abc"), pieces(b"abc"), announced)
        with pytest.raises(DigestMismatch, match=r'^digest mismatch, expected "sha256:.{64}", got "sha256:.{64}"$'):
            await uploads.receive(digest_of(b"abc"), pieces(b"abd"), 3)
        assert [info async for info in blobs.list()] == []

    asyncio.run(scenario())


def test_a_blob_that_is_deleted_at_once() -> None:
    """A blob that is gone when its upload ends is reported, so that the client uploads it again."""

    class Losing(MemoryBlobs):
        async def stat(self, digest: Digest) -> BlobInfo | None:
            return None

    async def scenario() -> None:
        uploads = BlobUploads(manifests=MemoryManifests(), blobs=Losing())
        with pytest.raises(Conflict, match="has been deleted meanwhile"):
            await uploads.receive(digest_of(b"abc"), pieces(b"abc"), 3)

    asyncio.run(scenario())


def test_a_deletion_between_storing_and_holding(either_store: tuple[Any, Any]) -> None:
    """The blob is held before it is stored: a deletion right after that, which no manifest keeps from it, spares it."""
    blobs, manifests = either_store

    class Interrupted:
        """The store, in which another task deletes the unused blob as soon as it is stored."""

        def __getattr__(self, name: str) -> Any:
            return getattr(blobs, name)

        async def begin(self, digest: Digest | None = None, size_bytes: int | None = None) -> Any:
            writer = await blobs.begin(digest, size_bytes)
            commit: Callable[[], Awaitable[BlobInfo]] = writer.commit

            async def committed() -> BlobInfo:
                info = await commit()
                async with manifests.guard(exclusive=True):
                    await delete_unused([info.digest], manifests=manifests, blobs=blobs)
                return info

            writer.commit = committed
            return writer

    async def scenario() -> None:
        await BlobUploads(manifests=manifests, blobs=Interrupted()).receive(digest_of(b"abc"), pieces(b"abc"), 3)
        assert await blobs.stat(digest_of(b"abc")) is not None

    asyncio.run(scenario())
