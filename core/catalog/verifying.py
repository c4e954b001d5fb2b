"""Checks that every blob of a store still has the bytes that its digest promises, and that no model lacks one."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing, suppress

import msgspec

from corral.core.catalog.lookup import model_not_found
from corral.core.catalog.manifest_reading import blobs_of
from corral.core.errors import BlobNotFound, Conflict, CorralError, StorageError
from corral.core.models.digests import Digest, mentioned_digests
from corral.core.models.names import ModelName
from corral.core.ports.blobs import BlobInfo, BlobStore
from corral.core.ports.manifests import ManifestFormat, ManifestStore, StoredManifest
from corral.core.ports.sources import FetchProgress, OnProgress
from corral.core.ports.upkeep import StoreUpkeep
from corral.core.values import Value

__all__ = ("BrokenBlob", "MissingBlob", "StoreVerifier", "UnreadableModel", "VerifyReport")

_log = logging.getLogger(__name__)


class BrokenBlob(Value, frozen=True, kw_only=True):
    """A blob whose bytes are not those of its digest, or cannot be read (`fault` says which), and the models that need
    it. `quarantined_at` is where it was moved to; None if it is still in its place."""

    digest: Digest
    size_bytes: int
    models: tuple[str, ...] = ()
    fault: str
    quarantined_at: str | None = None


class MissingBlob(Value, frozen=True, kw_only=True):
    """A blob that these models name and the store does not have."""

    digest: Digest
    models: tuple[str, ...]


class UnreadableModel(Value, frozen=True, kw_only=True):
    """A manifest that cannot be read. `model` is empty if not even its name is known."""

    model: str
    fault: str


class VerifyReport(Value, frozen=True, kw_only=True):
    """`blobs` and `size_bytes` are what was hashed."""

    blobs: int
    size_bytes: int
    broken: tuple[BrokenBlob, ...] = ()
    missing: tuple[MissingBlob, ...] = ()
    unreadable: tuple[UnreadableModel, ...] = ()

    @property
    def is_whole(self) -> bool:
        return not (self.broken or self.missing or self.unreadable)


class StoreVerifier:
    """Only reads, apart from moving broken blobs aside; models in use are not disturbed. `upkeep` is None for a store
    that cannot move a blob aside."""

    def __init__(
        self,
        *,
        manifests: ManifestStore,
        blobs: BlobStore,
        formats: Sequence[ManifestFormat],
        upkeep: StoreUpkeep | None = None,
    ) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._formats = tuple(formats)
        self._upkeep = upkeep

    async def verify(self, names: Collection[ModelName], on_progress: OnProgress) -> VerifyReport:
        """Checks these models, or without any the whole store, with blobs that no model needs.

        Raises `ModelNotFound`, and `StorageError` if the store cannot be listed at all.
        """
        wanted = [await self._required(name) for name in names]
        infos = await self._infos_of(wanted) if names else [info async for info in self._blobs.list()]
        total_bytes = sum(info.size_bytes for info in infos)
        passed_bytes = blobs = size_bytes = 0
        broken: list[BrokenBlob] = []

        def tell(read_bytes: int) -> None:
            on_progress(
                FetchProgress(status="verifying", total_bytes=total_bytes, completed_bytes=passed_bytes + read_bytes)
            )

        for info in infos:
            tell(0)
            with suppress(BlobNotFound):  # just deleted
                found = await self._checked(info, tell)
                blobs += 1
                size_bytes += info.size_bytes
                if found is not None:
                    broken.append(found)
            passed_bytes += info.size_bytes
        tell(0)
        return await self._report(wanted, broken, blobs=blobs, size_bytes=size_bytes)

    async def _checked(self, info: BlobInfo, tell: Callable[[int], None]) -> BrokenBlob | None:
        """None if the blob is whole. Raises `BlobNotFound`."""
        try:
            found = await self._hash(info.digest, tell)
        except StorageError as error:
            return BrokenBlob(digest=info.digest, size_bytes=info.size_bytes, fault=error.message)
        if found == info.digest:
            return None
        fault = f"its bytes have the digest {found}"
        place = None
        if self._upkeep is None:
            fault += "; this store cannot move it aside"
        else:
            try:
                # Exclusively, so that nobody is just about to name the blob in a manifest.
                async with self._manifests.guard(exclusive=True):
                    place = await self._upkeep.quarantine(info)
            except (StorageError, Conflict) as error:
                fault += f"; it could not be moved aside: {error.message}"
            else:
                if place is None:
                    return None  # it was deleted, or stored again, while it was being read
                _log.warning("the blob %s is broken: %s; moved to %s", info.digest, fault, place)
        return BrokenBlob(digest=info.digest, size_bytes=info.size_bytes, fault=fault, quarantined_at=place)

    async def _hash(self, digest: Digest, tell: Callable[[int], None]) -> Digest:
        """Reads the next piece while one is hashed. Raises `BlobNotFound` and `StorageError`."""
        found, read_bytes = hashlib.sha256(), 0
        async with aclosing(self._blobs.read(digest)) as chunks:
            hashing: asyncio.Future[None] | None = None
            try:
                async for chunk in chunks:
                    if hashing is not None:
                        await hashing
                    hashing = asyncio.get_running_loop().run_in_executor(None, found.update, chunk)
                    read_bytes += len(chunk)
                    tell(read_bytes)
            finally:
                if hashing is not None:
                    await hashing
        return Digest(f"sha256:{found.hexdigest()}")

    async def _required(self, name: ModelName) -> StoredManifest:
        stored = await self._manifests.get(name)
        if stored is None:
            raise model_not_found(name)
        return stored

    async def _infos_of(self, wanted: Sequence[StoredManifest]) -> list[BlobInfo]:
        """The blobs of these models, as far as they exist."""
        digests = dict.fromkeys(digest for stored in wanted for digest in self._named(stored)[0])
        return [info for digest in digests if (info := await self._blobs.stat(digest)) is not None]

    def _named(self, stored: StoredManifest) -> tuple[frozenset[Digest], str]:
        """The blobs that a manifest names, and why it cannot be read, empty if it can."""
        try:
            return frozenset(blob.digest for blob in blobs_of(stored.name, stored.data, self._formats)), ""
        except CorralError as error:
            return mentioned_digests(stored.data), error.message

    async def _report(
        self, wanted: Sequence[StoredManifest], broken: Sequence[BrokenBlob], *, blobs: int, size_bytes: int
    ) -> VerifyReport:
        every, unreadable = await self._every_manifest()
        if wanted:
            unreadable = []  # others do not matter
        users: defaultdict[Digest, list[str]] = defaultdict(list)
        missing: defaultdict[Digest, list[str]] = defaultdict(list)
        moved = {found.digest for found in broken}
        asked = {stored.name.key for stored in wanted}
        for stored in every:
            named, fault = self._named(stored)
            for digest in named:
                users[digest].append(stored.name.short)
            if asked and stored.name.key not in asked:
                continue
            if fault:
                unreadable.append(UnreadableModel(model=stored.name.short, fault=fault))
                continue
            for digest in named - moved:
                if await self._blobs.stat(digest) is None and await self._is_current(stored):
                    missing[digest].append(stored.name.short)
        return VerifyReport(
            blobs=blobs,
            size_bytes=size_bytes,
            broken=tuple(msgspec.structs.replace(found, models=tuple(users[found.digest])) for found in broken),
            missing=tuple(MissingBlob(digest=digest, models=tuple(names)) for digest, names in missing.items()),
            unreadable=tuple(unreadable),
        )

    async def _every_manifest(self) -> tuple[list[StoredManifest], list[UnreadableModel]]:
        """All that can be read, and what is wrong with the first that cannot."""
        unreadable = []
        try:
            async for _ in self._manifests.list(strict=True):
                pass
        except StorageError as error:
            unreadable.append(UnreadableModel(model="", fault=error.message))
        found = []
        async for entry in self._manifests.list():
            with suppress(StorageError):
                stored = await self._manifests.get(entry.name)
                if stored is not None:
                    found.append(stored)
        return found, unreadable

    async def _is_current(self, stored: StoredManifest) -> bool:
        """Whether the model was neither deleted nor replaced meanwhile."""
        with suppress(StorageError):
            found = await self._manifests.get(stored.name)
            return found is not None and found.digest == stored.digest
        return False
