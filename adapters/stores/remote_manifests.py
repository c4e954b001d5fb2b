"""Manifests in a registry that is used as a store: a repository for each model, a tag for each of its tags."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager

import msgspec

from corral.adapters.stores.cache_limit import CacheLimit
from corral.adapters.stores.manifest_paths import check_name
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.remote_index import RemoteIndex
from corral.adapters.stores.remote_registry import registry_errors
from corral.adapters.stores.remote_writing import RemoteWriting
from corral.adapters.stores.store_locks import StoreLocks
from corral.core.errors import Conflict, StorageError
from corral.core.models.digests import Digest
from corral.core.models.names import ModelName
from corral.core.ports.manifests import ManifestEntry, StoredManifest
from corral.core.specs.converters import DERIVED_HOST

__all__ = ("RemoteManifests",)

_log = logging.getLogger(__name__)


class RemoteManifests:
    """Models that were converted for an engine of this machine are in `derived`, in the cache, not in the registry.

    Guard, claims and conditional puts hold for the tasks and processes of this machine that share the cache. Between
    machines, the last one to put a name wins, and blobs are the registry's to keep.
    """

    def __init__(
        self,
        index: RemoteIndex,
        writing: RemoteWriting,
        locks: StoreLocks,
        derived: FilesystemManifests,
        limit: CacheLimit,
    ) -> None:
        self._index = index
        self._writing = writing
        self._locks = locks
        self._derived = derived
        self._limit = limit
        self._complained = set[str]()

    async def get(self, name: ModelName) -> StoredManifest | None:
        check_name(name)
        if _is_derived(name):
            return await self._derived.get(name)
        with registry_errors(f"cannot read '{name}'"):
            return await self._index.find(name)

    async def put(self, name: ModelName, data: bytes, *, if_digest: Digest | None = None) -> StoredManifest:
        check_name(name)
        if _is_derived(name):
            return await self._derived.put(name, data, if_digest=if_digest)
        with registry_errors(f"cannot store '{name}' in {self._index.names}"):
            known = await self._index.find(name)
            # Before anybody has to wait for the lock: this may take long.
            await self._writing.send_blobs(self._index.names.reference(name if known is None else known.name), data)
            async with self._locks.changes():
                known = await self._index.find(name, fresh=True)
                if if_digest is not None and (known is None or known.digest != if_digest):
                    raise Conflict(
                        f"'{name}' was changed by another process or task",
                        "check its current state, then repeat the change",
                    )
                spelt = name if known is None else known.name
                await self._writing.put(self._index.names.reference(spelt), data)
                stored = await self._index.add(spelt, data)
        await self._limit.shrink(self._index.blobs())
        return msgspec.structs.replace(stored, replaced=None if known is None else known.data)

    async def delete(self, name: ModelName) -> bool:
        check_name(name)
        if _is_derived(name):
            return await self._derived.delete(name)
        async with self._locks.changes():
            with registry_errors(f"cannot delete '{name}'"):
                known = await self._index.find(name, fresh=True)
                if known is None:
                    return False
                await self._writing.delete(self._index.names.reference(known.name), known)
            await self._index.drop(known.name)
        return True

    async def list(self, *, strict: bool = False) -> AsyncGenerator[ManifestEntry, None]:
        with registry_errors(f"cannot list {self._index.names}"):
            found = await self._index.all()
        for fault in found.faults:
            if strict:
                raise StorageError(f"cannot list {self._index.names}: {fault.message}", fault.remedy)
            if fault.message not in self._complained:
                self._complained.add(fault.message)
                _log.warning("skipping a manifest: %s", fault)
        seen = set[str]()
        for stored in found.models:
            if stored.name.key not in seen:
                seen.add(stored.name.key)
                yield ManifestEntry(name=stored.name, digest=stored.digest, modified_at=stored.modified_at)
        async for entry in self._derived.list(strict=strict):
            yield entry

    def guard(self, *, exclusive: bool) -> AbstractAsyncContextManager[None]:
        return self._locks.guard(exclusive=exclusive)

    def claim(self, name: ModelName) -> AbstractAsyncContextManager[None]:
        return self._locks.claim(name)


def _is_derived(name: ModelName) -> bool:
    return name.host.lower() == DERIVED_HOST
