"""The locks of a store of files: the guard of its manifests, and the claims of names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from corral.adapters.stores.manifest_paths import check_name
from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.system.file_locks import FileLock
from corral.core.models.digests import digest_of
from corral.core.models.names import ModelName

__all__ = ("StoreLocks",)


class StoreLocks:
    """What `ManifestStore` promises of `guard` and `claim`, by locks on files. `changes` is held while manifests are
    changed. `guard_timeout_s` is how long the guard is waited for."""

    def __init__(self, folders: StoreFolders, *, guard_timeout_s: float = 30.0) -> None:
        self._folders = folders
        self._guard_timeout_s = guard_timeout_s

    def changes(self) -> FileLock:
        return FileLock(self._folders.own / "manifests.lock")

    @asynccontextmanager
    async def guard(self, *, exclusive: bool) -> AsyncIterator[None]:
        path, timeout_s = self._folders.own / "store.lock", self._guard_timeout_s
        async with FileLock(path, exclusive=exclusive, timeout_s=timeout_s):
            yield

    def claim(self, name: ModelName) -> AbstractAsyncContextManager[None]:
        check_name(name)
        return self._claim(digest_of(name.key.encode()).partition(":")[2])

    @asynccontextmanager
    async def _claim(self, key: str) -> AsyncIterator[None]:
        async with FileLock(self._folders.claims / f"{key}.lock", remove=True, timeout_s=None):
            yield
