"""Keeps a cache of blobs within a size: those that were used least recently go, unless they are in use."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from corral.adapters.stores.filesystem import FilesystemBlobs
from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.system.blocking_work import in_thread
from corral.adapters.system.files import storage_errors
from corral.core.errors import InvalidDigest
from corral.core.models.digests import Digest, parse_digest

__all__ = ("CacheLimit",)

_FOLDER_IN_USE_S = 3600.0  # a model that is being loaded from a folder needs it for less


class CacheLimit:
    """`limit_bytes` of blobs in the store `blobs`, whose folders are `folders`; 0 means no limit.

    The time of the last use is the access time of a blob's file. One with a second name is in use, or shares its bytes
    with a file outside: deleting it would free nothing.
    """

    def __init__(self, blobs: FilesystemBlobs, folders: StoreFolders, limit_bytes: int) -> None:
        self._blobs = blobs
        self._folders = folders
        self._limit_bytes = limit_bytes

    async def used(self, *paths: Path) -> None:
        """Notes that these files or folders are used now."""
        await in_thread(lambda _: _touch(paths))

    async def shrink(self, evictable: Collection[Digest]) -> None:
        """Deletes blobs among `evictable` until the rest is within the limit, or in use."""
        infos = [info async for info in self._blobs.list()] if self._limit_bytes else []
        excess_bytes = sum(info.size_bytes for info in infos) - self._limit_bytes
        if excess_bytes <= 0 or not infos:
            return
        for key in await in_thread(lambda _: self._idle_folders()):
            await self._blobs.drop_folder(key)
        spared = await self._blobs.held()
        sizes = {
            info.digest: info.size_bytes for info in infos if info.digest in evictable and info.digest not in spared
        }
        for digest in await in_thread(lambda _: self._by_use(sizes)):
            if excess_bytes <= 0:
                return
            if await self._blobs.delete(digest):
                excess_bytes -= sizes[digest]

    def _by_use(self, digests: Collection[Digest]) -> list[Digest]:
        """Those that are not in use, the one that was not used for longest first."""
        found = []
        for digest in digests:
            with suppress(OSError):
                status = self._blobs.path(digest).stat()
                if status.st_nlink == 1:
                    found.append((status.st_atime_ns, digest))
        return [digest for _, digest in sorted(found)]

    def _idle_folders(self) -> list[Digest]:
        """The folders of models in several files that nobody asked for lately."""
        found = []
        with storage_errors(f"cannot list {self._folders.folders}"), suppress(FileNotFoundError):
            for path in self._folders.folders.iterdir():
                with suppress(InvalidDigest, FileNotFoundError):
                    key = parse_digest(f"sha256:{path.name}")
                    if path.stat().st_atime < time.time() - _FOLDER_IN_USE_S:
                        found.append(key)
        return found


def _touch(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):  # another user's cache
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
