"""Deletes what nobody needs any more: blobs without a model, derived models without a source, leftovers."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal

from corral.core.catalog.deletion import orphans
from corral.core.catalog.unused_blobs import every_manifest
from corral.core.errors import StorageError
from corral.core.models.digests import Digest, mentioned_digests
from corral.core.ports.blobs import BlobInfo, BlobStore, LocalBlobs
from corral.core.ports.manifests import ManifestStore, StoredManifest
from corral.core.ports.upkeep import Leftover, LeftoverKind, StoreUpkeep
from corral.core.values import Value

__all__ = ("Garbage", "GarbageCollector", "GarbageKind", "GarbageReport")

_log = logging.getLogger(__name__)

_HOUR_S = 3600.0
_WEEK_S = 7 * 24 * _HOUR_S

GarbageKind = Literal["blob", "derived"] | LeftoverKind


class Garbage(Value, frozen=True, kw_only=True):
    """Something that no model needs. `name` is a digest, the name of a derived model, or a path in the store.

    `reason` says why it is kept for now; it is empty for what is deleted.
    """

    kind: GarbageKind
    name: str
    size_bytes: int
    reason: str = ""


class GarbageReport(Value, frozen=True, kw_only=True):
    """What was deleted (with `dry_run`: what would be), and what is kept although no model needs it."""

    removed: tuple[Garbage, ...]
    kept: tuple[Garbage, ...]
    dry_run: bool

    @property
    def removed_bytes(self) -> int:
        """At most so much disk space is free now: files that are linked elsewhere, or in use, keep theirs."""
        return sum(garbage.size_bytes for garbage in self.removed)

    @property
    def kept_bytes(self) -> int:
        return sum(garbage.size_bytes for garbage in self.kept)


class GarbageCollector:
    """Spares what is in use, what a process holds, and what was stored within the last hour, as it may be about to
    become part of a model; downloads that can be resumed are kept for a week.

    `upkeep` is None for a store that has nothing but blobs and manifests. `now` is the time in seconds since 1970.
    """

    def __init__(
        self,
        *,
        manifests: ManifestStore,
        blobs: BlobStore,
        local: LocalBlobs,
        upkeep: StoreUpkeep | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._local = local
        self._upkeep = upkeep
        self._now = now

    async def collect(self, *, dry_run: bool = False, partials: bool = False) -> GarbageReport:
        """Deletes garbage, or only says what would be deleted. With `partials`, also downloads that could be resumed,
        unless they are in use.

        Raises `StorageError` if a manifest cannot be read, since it might name any blob: nothing is deleted then.
        Raises `Conflict` if others keep changing the store. What cannot be deleted is logged, and kept.
        """
        # Before the store is locked: a blob that shares its bytes with a file outside may have to be hashed.
        blobs = [info async for info in self._blobs.list()]
        leftovers = await self._upkeep.leftovers() if self._upkeep is not None else ()
        work = _Work(self._manifests, self._blobs, self._local, self._upkeep, now=self._now(), dry_run=dry_run)
        if dry_run:
            await work.sort_out(blobs, leftovers, partials=partials)
        else:
            async with self._manifests.guard(exclusive=True):
                await work.sort_out(blobs, leftovers, partials=partials)
        return GarbageReport(removed=tuple(work.removed), kept=tuple(work.kept), dry_run=dry_run)


class _Work:
    """One collection."""

    def __init__(
        self,
        manifests: ManifestStore,
        blobs: BlobStore,
        local: LocalBlobs,
        upkeep: StoreUpkeep | None,
        *,
        now: float,
        dry_run: bool,
    ) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._local = local
        self._upkeep = upkeep
        self._now = now
        self._dry_run = dry_run
        self.removed: list[Garbage] = []
        self.kept: list[Garbage] = []

    async def sort_out(self, blobs: Sequence[BlobInfo], leftovers: Sequence[Leftover], *, partials: bool) -> None:
        """The caller holds the guard exclusively, unless it is a dry run."""
        models = [stored async for stored in every_manifest(self._manifests)]
        held = await self._blobs.held()
        former = set[Digest]()  # blobs of derived models that are deleted now: how old they are does not matter
        while found := orphans(models):
            models = [stored for stored in models if stored not in found]
            for orphan in found:
                former |= mentioned_digests(orphan.data)
                await self._derived(orphan)
        needed = set[Digest]().union(*(mentioned_digests(stored.data) for stored in models))
        for blob in blobs:
            if blob.digest not in needed:
                await self._blob(blob, held=blob.digest in held, former=blob.digest in former)
        manifests = {stored.digest for stored in models}
        for leftover in leftovers:
            if leftover.kind == "folder" and leftover.digest in manifests:
                continue
            if leftover.kind == "changed" and leftover.digest in needed:
                continue  # `corral verify` says that the model lacks it
            await self._leftover(leftover, partials=partials)

    async def _derived(self, orphan: StoredManifest) -> None:
        if await self._succeeds(orphan.name.full, partial(self._drop_derived, orphan)):
            self.removed.append(Garbage(kind="derived", name=orphan.name.full, size_bytes=len(orphan.data)))

    async def _drop_derived(self, orphan: StoredManifest) -> bool:
        await self._manifests.delete(orphan.name)
        await self._local.drop_folder(orphan.digest)
        return True

    async def _blob(self, blob: BlobInfo, *, held: bool, former: bool) -> None:
        garbage = Garbage(kind="blob", name=blob.digest, size_bytes=blob.size_bytes)
        reason = self._spared(blob, held=held, former=former)
        if reason:
            self._keep(garbage, reason)
        elif await self._succeeds(blob.digest, partial(self._drop_blob, blob)):
            self.removed.append(garbage)

    def _spared(self, blob: BlobInfo, *, held: bool, former: bool) -> str:
        """Why the blob stays, empty if it goes."""
        if held:
            return "a running server needs it"
        if former:
            return ""
        if blob.modified_at is None:
            return "this store cannot tell how old it is"
        return "it was stored within the last hour" if self._is_young(blob.modified_at, _HOUR_S) else ""

    async def _drop_blob(self, blob: BlobInfo) -> bool:
        found = await self._blobs.stat(blob.digest)
        return found == blob and await self._blobs.delete(blob.digest)  # otherwise it was stored again meanwhile

    async def _leftover(self, leftover: Leftover, *, partials: bool) -> None:
        garbage = Garbage(kind=leftover.kind, name=leftover.path, size_bytes=leftover.size_bytes)
        young = self._is_young(leftover.modified_at, _WEEK_S if leftover.kind == "partial" else _HOUR_S)
        if leftover.kind == "quarantined":
            self._keep(garbage, "corral verify found it broken; delete the file if you do not want to examine it")
        elif leftover.kind == "partial" and young and not partials:
            self._keep(garbage, "the next pull continues it")
        elif leftover.kind not in ("partial", "scratch") and young:
            self._keep(garbage, "it was written within the last hour")
        elif await self._succeeds(leftover.path, partial(self._discard, leftover)):
            self.removed.append(garbage)

    async def _discard(self, leftover: Leftover) -> bool:
        return self._upkeep is not None and await self._upkeep.discard(leftover)

    async def _succeeds(self, name: str, delete: Callable[[], Awaitable[bool]]) -> bool:
        """Whether it was deleted; in a dry run, whether it would be."""
        if self._dry_run:
            return True
        try:
            return await delete()
        except StorageError as error:  # the others can still be deleted
            _log.warning("could not delete %s: %s", name, error)
            return False

    def _keep(self, garbage: Garbage, reason: str) -> None:
        self.kept.append(Garbage(kind=garbage.kind, name=garbage.name, size_bytes=garbage.size_bytes, reason=reason))

    def _is_young(self, modified_at: float, limit_s: float) -> bool:
        return self._now - modified_at < limit_s
