"""Blobs of a registry that is used as a store, in front of it a cache of files, which engines map."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

from corral.adapters.stores.cache_limit import CacheLimit
from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.remote_index import RemoteIndex
from corral.adapters.stores.remote_registry import StorageRegistry, registry_errors
from corral.core.catalog.fetching import BlobFetcher, BlobOrigin
from corral.core.errors import BlobNotFound, RangesIgnored, SourceUnavailable, StorageError
from corral.core.models.digests import Digest
from corral.core.models.references import Reference
from corral.core.ports.blobs import BlobInfo, BlobWriter, OnStored, ignore_digest

__all__ = ("RemoteBlobs",)

_TRIES = 3


class RemoteBlobs:
    """A blob is there if the cache has it, or if a model in the registry names it.

    What is written stays in the cache until a manifest that names it is put: then it is sent to that repository. What
    is in the registry may leave the cache at any time when it is not in use.
    """

    def __init__(
        self, registry: StorageRegistry, index: RemoteIndex, cache: FilesystemBlobs, limit: CacheLimit
    ) -> None:
        self._registry = registry
        self._index = index
        self._cache = cache
        self._limit = limit
        self._fetcher = BlobFetcher(cache)
        self._sizes: dict[Digest, int] = {}

    async def stat(self, digest: Digest) -> BlobInfo | None:
        found = await self._cache.stat(digest)
        if found is not None:
            return found
        remote = await self._remote(digest)
        return None if remote is None else BlobInfo(digest=digest, size_bytes=remote[1])

    async def read(self, digest: Digest, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Without a copy in the cache, only the bytes that are asked for are fetched."""
        remote = None if await self._cache.stat(digest) is not None else await self._remote(digest)
        if remote is not None:
            reference, size_bytes = remote
            end = size_bytes if end is None else min(end, size_bytes)
            faults = 0
            with registry_errors(f"cannot read blob {digest} of {self._index.names}"):
                while start < end:
                    try:
                        async with aclosing(self._registry.fetch(reference, digest, start, end)) as chunks:
                            async for chunk in chunks:
                                start, faults = start + len(chunk), 0
                                yield chunk
                    except RangesIgnored:
                        await self._ensure(digest)
                        remote = None
                        break
                    except SourceUnavailable:
                        faults += 1
                        if faults == _TRIES:
                            raise
        if remote is None:
            async with aclosing(self._cache.read(digest, start, end)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def begin(self, digest: Digest | None = None, size_bytes: int | None = None) -> BlobWriter:
        return await self._cache.begin(digest, size_bytes)

    async def partial(self, digest: Digest) -> Sequence[tuple[int, int]]:
        return await self._cache.partial(digest)

    async def delete(self, digest: Digest) -> bool:
        """Deletes the copy in the cache: what is in the registry goes with its manifest, when the registry likes."""
        return await self._cache.delete(digest)

    def list(self) -> AsyncIterator[BlobInfo]:
        return self._cache.list()

    async def hold(self, digest: Digest) -> None:
        await self._cache.hold(digest)

    async def release(self, digest: Digest) -> None:
        await self._cache.release(digest)

    async def held(self) -> frozenset[Digest]:
        return await self._cache.held()

    @asynccontextmanager
    async def local(self, digest: Digest) -> AsyncIterator[Path]:
        async with AsyncExitStack() as pins:
            yield await self._pin(digest, pins)

    def path(self, digest: Digest) -> Path:
        return self._cache.path(digest)

    async def adopt(self, file: Path, *, on_stored: OnStored = ignore_digest) -> BlobInfo:
        return await self._cache.adopt(file, on_stored=on_stored)

    async def folder(self, key: Digest, files: Mapping[str, Digest], *, elsewhere: Mapping[Digest, Path] = {}) -> Path:
        async with AsyncExitStack() as pins:
            for digest in set(files.values()) - set(elsewhere):
                await self._pin(digest, pins)
            folder = await self._cache.folder(key, files, elsewhere=elsewhere)
            await self._limit.used(folder)
            return folder

    async def drop_folder(self, key: Digest) -> None:
        await self._cache.drop_folder(key)

    def scratch(self) -> AbstractAsyncContextManager[Path]:
        return self._cache.scratch()

    async def _pin(self, digest: Digest, pins: AsyncExitStack) -> Path:
        for attempt in range(_TRIES):
            await self._ensure(digest)
            try:
                path = await pins.enter_async_context(self._cache.local(digest))
            except BlobNotFound:  # another process has just evicted it
                if attempt == _TRIES - 1:
                    raise
            else:
                await self._limit.used(self._cache.path(digest))
                return path
        raise AssertionError

    async def _ensure(self, digest: Digest) -> None:
        """Fetches a blob that the cache lacks, then makes room."""
        if await self._cache.stat(digest) is not None:
            return
        remote = await self._remote(digest)
        if remote is None:
            raise BlobNotFound(f"the blob {digest} is missing", "import or pull the model again")
        reference, size_bytes = remote
        origin = BlobOrigin(
            place=reference.repository, stream=partial(self._registry.fetch, reference, digest), status="fetching"
        )
        with registry_errors(f"cannot fetch blob {digest} of {self._index.names}"):
            await self._fetcher.fetch(origin, digest, size_bytes, lambda progress: None)
        await self._limit.shrink(self._index.blobs() - {digest})

    async def _remote(self, digest: Digest) -> tuple[Reference, int] | None:
        """A repository that has the blob, and the blob's size; None if no known model names it."""
        for reference in self._index.holders(digest):
            size_bytes = self._sizes.get(digest)
            if size_bytes is None:
                with registry_errors(f"cannot find blob {digest}"):
                    size_bytes = await self._registry.blob_size_bytes(reference, digest)
                if size_bytes is not None and size_bytes < 0:
                    raise StorageError(
                        f"{self._index.names} does not say how large the blob {digest} is",
                        "use a registry whose answers to HEAD have a Content-Length",
                    )
            if size_bytes is not None:
                self._sizes[digest] = size_bytes
                return reference, size_bytes
        return None
