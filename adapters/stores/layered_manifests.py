"""Manifests of several stores as one: the upper one is written, those below it are only read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager

from corral.adapters.stores.layers import StoreLayer
from corral.core.errors import Conflict, ReadOnly, StorageError
from corral.core.models.digests import Digest
from corral.core.models.names import ModelName
from corral.core.ports.manifests import ManifestEntry, StoredManifest

__all__ = ("LayeredManifests",)

_log = logging.getLogger(__name__)


class LayeredManifests:
    """A name in the upper store hides the same name below it, and shows it again once it is deleted.

    The guard and the claims are those of the upper store: nothing keeps the owner of a layer from changing it, so a
    model that names blobs of a layer loses them if they are deleted there.
    """

    def __init__(self, upper: StoreLayer, layers: Sequence[StoreLayer]) -> None:
        self._upper = upper.manifests
        self._layers = tuple(layers)
        self._complained = set[str]()
        self._putting = asyncio.Lock()

    async def get(self, name: ModelName) -> StoredManifest | None:
        found = await self._upper.get(name)
        return found if found is not None else await self._below(name)

    async def put(self, name: ModelName, data: bytes, *, if_digest: Digest | None = None) -> StoredManifest:
        """`if_digest` of a manifest in a layer is compared for the tasks of this process only."""
        async with self._putting:
            below = None if await self._has(name) else await self._below(name)
            if below is None:
                return await self._upper.put(name, data, if_digest=if_digest)
            if if_digest is not None and below.digest != if_digest:
                raise Conflict(f"'{name}' is another version", "check its current state, then repeat the change")
            return await self._upper.put(below.name, data)

    async def delete(self, name: ModelName) -> bool:
        if await self._upper.delete(name):
            return True
        for layer in self._layers:
            if await layer.manifests.get(name) is not None:
                raise ReadOnly(
                    f"'{name}' is in {layer.name}, a layer of the store that is only read",
                    "delete it there, or store another model under this name, which hides it",
                )
        return False

    async def list(self, *, strict: bool = False) -> AsyncGenerator[ManifestEntry, None]:
        """An unreadable manifest of a layer is skipped even if `strict`: it names no blob that could be deleted."""
        seen = set[str]()
        async for entry in self._upper.list(strict=strict):
            seen.add(entry.name.key)
            yield entry
        for layer in self._layers:
            try:
                async for entry in layer.manifests.list():
                    if entry.name.key not in seen:
                        seen.add(entry.name.key)
                        yield entry
            except StorageError as error:
                self._complain(layer, error)

    def guard(self, *, exclusive: bool) -> AbstractAsyncContextManager[None]:
        return self._upper.guard(exclusive=exclusive)

    def claim(self, name: ModelName) -> AbstractAsyncContextManager[None]:
        return self._upper.claim(name)

    async def _has(self, name: ModelName) -> bool:
        try:
            return await self._upper.get(name) is not None
        except StorageError:
            return True

    async def _below(self, name: ModelName) -> StoredManifest | None:
        for layer in self._layers:
            found = await layer.manifests.get(name)
            if found is not None:
                return found
        return None

    def _complain(self, layer: StoreLayer, error: StorageError) -> None:
        if layer.name not in self._complained:
            self._complained.add(layer.name)
            _log.warning("%s, a layer of the store, cannot be listed: %s", layer.name, error)
