"""Blobs of several stores as one: the upper one is written, those below it are only read."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

from corral.adapters.stores.layers import StoreLayer
from corral.core.errors import BlobNotFound
from corral.core.models.digests import Digest
from corral.core.ports.blobs import BlobInfo, BlobWriter, OnStored, ignore_digest

__all__ = ("LayeredBlobs",)


class LayeredBlobs:
    """A blob is read from the first store that has it. What is deleted and listed is in the upper one."""

    def __init__(self, upper: StoreLayer, layers: Sequence[StoreLayer]) -> None:
        self._upper = upper
        self._all = (upper, *layers)

    async def stat(self, digest: Digest) -> BlobInfo | None:
        for layer in self._all:
            found = await layer.blobs.stat(digest)
            if found is not None:
                return found
        return None

    async def read(self, digest: Digest, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        layer = await self._with(digest) or self._upper
        async with aclosing(layer.blobs.read(digest, start, end)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def begin(self, digest: Digest | None = None, size_bytes: int | None = None) -> BlobWriter:
        return await self._upper.blobs.begin(digest, size_bytes)

    async def partial(self, digest: Digest) -> Sequence[tuple[int, int]]:
        return await self._upper.blobs.partial(digest)

    async def delete(self, digest: Digest) -> bool:
        return await self._upper.blobs.delete(digest)

    def list(self) -> AsyncIterator[BlobInfo]:
        return self._upper.blobs.list()

    async def hold(self, digest: Digest) -> None:
        await self._upper.blobs.hold(digest)

    async def release(self, digest: Digest) -> None:
        await self._upper.blobs.release(digest)

    async def held(self) -> frozenset[Digest]:
        return await self._upper.blobs.held()

    @asynccontextmanager
    async def local(self, digest: Digest) -> AsyncIterator[Path]:
        layer = await self._with(digest) or self._upper
        async with layer.local.local(digest) as path:
            yield path

    def path(self, digest: Digest) -> Path:
        paths = [layer.local.path(digest) for layer in self._all]
        return next((path for path in paths if os.path.lexists(path)), paths[0])

    async def adopt(self, file: Path, *, on_stored: OnStored = ignore_digest) -> BlobInfo:
        return await self._upper.local.adopt(file, on_stored=on_stored)

    async def folder(self, key: Digest, files: Mapping[str, Digest], *, elsewhere: Mapping[Digest, Path] = {}) -> Path:
        """The folder is in the upper store: links to the files of the layers, which stay where they are."""
        found = dict(elsewhere)
        async with AsyncExitStack() as fetched:
            for path, digest in files.items():
                layer = None if digest in found else await self._with(digest)
                if layer is not None and layer is not self._upper:
                    await fetched.enter_async_context(layer.local.local(digest))  # a remote one fetches it
                    found[digest] = layer.local.path(digest)
                elif layer is None and digest not in found:
                    raise BlobNotFound(f"the blob {digest} of {path!r} is missing", "import or pull the model again")
            return await self._upper.local.folder(key, files, elsewhere=found)

    async def drop_folder(self, key: Digest) -> None:
        await self._upper.local.drop_folder(key)

    def scratch(self) -> AbstractAsyncContextManager[Path]:
        return self._upper.local.scratch()

    async def _with(self, digest: Digest) -> StoreLayer | None:
        for layer in self._all:
            if await layer.blobs.stat(digest) is not None:
                return layer
        return None
