"""What a registry holds for a store: its models, remembered for a short time, and the repositories of each blob."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from corral.adapters.stores.remote_names import RemoteNames
from corral.adapters.stores.remote_registry import StorageRegistry
from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.system.blocking_work import in_thread
from corral.adapters.system.files import make_folder, replace_file, storage_errors
from corral.core.errors import CorralError, NotFound, StorageError, Unsupported
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest, digest_of, mentioned_digests
from corral.core.models.names import ModelName
from corral.core.models.references import Reference
from corral.core.ports.manifests import StoredManifest
from corral.core.regular_files import read_regular
from corral.core.values import Value

__all__ = ("TOMBSTONE", "RemoteIndex", "RemoteListing")

TOMBSTONE = "application/vnd.corral.deleted.v1"
"""The artifact type of a manifest whose tag is being deleted."""

_log = logging.getLogger(__name__)

_LIMIT_BYTES = 8 * 1024 * 1024
_AT_ONCE = 8


class _Known(Value, frozen=True, kw_only=True):
    reference: Reference
    head: Digest  # of the index, if the tag leads to one
    stored: StoredManifest
    blobs: frozenset[Digest]
    seen_s: float


class RemoteListing(Value, frozen=True, kw_only=True):
    """All models, and why others could not be read."""

    models: Sequence[StoredManifest]
    faults: Sequence[CorralError]


class _Typed(msgspec.Struct, frozen=True, rename="camel"):
    artifact_type: str = ""


class RemoteIndex:
    """For one event loop. What was read is taken as current for `fresh_s`; then the registry is asked for its digest.

    Manifests are kept in files of the cache, because registries do not say when a manifest was stored: it is when this
    machine first had it. Raises what `StorageRegistry` raises.
    """

    def __init__(
        self,
        registry: StorageRegistry,
        names: RemoteNames,
        cache: StoreFolders,
        *,
        repositories: Iterable[str],
        fresh_s: float,
    ) -> None:
        self._registry = registry
        self.names = names
        self._folder = cache.own / "remote"
        self._scratch = cache.scratch
        self._repositories = {names.inside(path) for path in repositories}
        self._fresh_s = fresh_s
        self._known: dict[str, _Known] = {}
        self._listed_s = float("-inf")
        self._listing = asyncio.Lock()
        self._complained = False

    async def find(self, name: ModelName, *, fresh: bool = False) -> StoredManifest | None:
        """The model of this name in any spelling; None if there is none."""
        for spelling in (name.full, *self._spellings(name)):
            known = self._known.get(spelling)
            if known is not None and not fresh and self._is_fresh(known.seen_s):
                return known.stored
            found = await self._check(name if known is None else known.stored.name)
            if found is not None:
                return found
        with suppress(StorageError):  # without a list, only this spelling can be found
            await self.all(fresh=fresh)
        for spelling in self._spellings(name):
            return self._known[spelling].stored
        return None

    async def all(self, *, fresh: bool = False) -> RemoteListing:
        """All models that the registry has for this store. Raises `StorageError` if it does not list them."""
        async with self._listing:
            if not fresh and self._is_fresh(self._listed_s):
                return RemoteListing(models=[known.stored for known in self._known.values()], faults=())
            began_s = time.monotonic()
            turns = asyncio.Semaphore(_AT_ONCE)
            faults: list[CorralError] = []
            seen = set[str]()

            async def look(name: ModelName) -> None:
                async with turns:
                    try:
                        if await self._check(name) is not None:
                            seen.add(name.full)
                    except CorralError as error:
                        faults.append(error)
                        seen.add(name.full)

            async def tags(path: str) -> list[ModelName]:
                async with turns:
                    try:
                        found = await self._registry.tags(self.names.repository(path))
                    except NotFound:
                        return []
                return [name for tag in found if (name := self.names.name(path, tag)) is not None]

            listed = await asyncio.gather(*(tags(path) for path in await self._paths()))
            await asyncio.gather(*(look(name) for names in listed for name in names))
            for spelling, known in tuple(self._known.items()):
                if spelling not in seen and known.seen_s < began_s:
                    del self._known[spelling]
            if not faults:
                self._listed_s = began_s
            return RemoteListing(models=[known.stored for known in self._known.values()], faults=faults)

    async def add(self, name: ModelName, data: bytes) -> StoredManifest:
        """Remembers a manifest that was just published under the name."""
        reference = self.names.reference(name)
        stored = await in_thread(lambda _: self._keep(name, data))
        self._remember(reference, stored.digest, stored)
        if reference.path not in await in_thread(lambda _: self._noted()):
            await in_thread(lambda _: self._note(reference.path))
        return stored

    async def drop(self, name: ModelName) -> None:
        """Forgets a name that was just deleted."""
        known = self._known.pop(name.full, None)
        if known is not None and all(other.stored.digest != known.stored.digest for other in self._known.values()):
            await in_thread(lambda _: self._file(known.stored.digest).unlink(missing_ok=True))

    def holders(self, blob: Digest) -> list[Reference]:
        """The repositories in which a known manifest names the blob."""
        found = [known for known in self._known.values() if blob in known.blobs]
        return list({known.reference.path: known.reference for known in found}.values())

    def blobs(self) -> frozenset[Digest]:
        """Every blob that a known manifest names, and so the registry has."""
        return frozenset[Digest]().union(*(known.blobs for known in self._known.values()))

    async def same(self, stored: StoredManifest) -> list[StoredManifest]:
        """The other tags of a model's repository that lead to the same manifest now."""
        path = self.names.reference(stored.name).path
        turns = asyncio.Semaphore(_AT_ONCE)

        async def look(tag: str) -> StoredManifest | None:
            name = self.names.name(path, tag)
            async with turns:
                return None if name is None else await self._check(name)

        tags = await self._registry.tags(self.names.repository(path))
        found = await asyncio.gather(*(look(tag) for tag in tags if tag != stored.name.tag))
        return [other for other in found if other is not None and other.digest == stored.digest]

    async def _paths(self) -> list[str]:
        noted = await in_thread(lambda _: self._noted())
        if self._repositories:
            return sorted(self._repositories | noted)
        try:
            found = await self._registry.repositories(self.names.host)
        except Unsupported as error:
            if noted:
                self._complain(error)
                return sorted(noted)
            raise StorageError(error.message, error.remedy) from error
        return sorted({path for path in found if self.names.name(path, "latest") is not None} | noted)

    async def _check(self, name: ModelName) -> StoredManifest | None:
        """What is under exactly this name now."""
        reference = self.names.reference(name)
        known = self._known.get(name.full)
        head = await self._registry.manifest_head(reference)
        if head is None:
            self._known.pop(name.full, None)
            return None
        if known is None or known.head != head.digest:
            data = await in_thread(lambda _: self._kept(head.digest))
            if data is None:
                try:
                    data = (await self._registry.manifest(reference)).data
                except NotFound:  # just deleted
                    return None
            if _is_tombstone(data):
                return None
            stored = await in_thread(lambda _: self._keep(name, data, is_new=False))
        else:
            stored = known.stored
        self._remember(reference, head.digest, stored)
        return stored

    def _remember(self, reference: Reference, head: Digest, stored: StoredManifest) -> None:
        known = self._known.get(stored.name.full)
        unchanged = known is not None and known.stored is stored
        self._known[stored.name.full] = _Known(
            reference=reference,
            head=head,
            stored=stored,
            blobs=known.blobs if known is not None and unchanged else mentioned_digests(stored.data),
            seen_s=time.monotonic(),
        )

    def _complain(self, error: Unsupported) -> None:
        if not self._complained:
            self._complained = True
            _log.warning(
                "only models of this machine are listed: %s; name others in stores.oci.repositories", error.message
            )

    def _spellings(self, name: ModelName) -> list[str]:
        return [spelling for spelling in self._known if spelling.lower() == name.key]

    def _is_fresh(self, seen_s: float) -> bool:
        return time.monotonic() - seen_s < self._fresh_s

    # ── Files of the cache ────────────────────────────────────────────────────────────────────────────────────────

    def _keep(self, name: ModelName, data: bytes, *, is_new: bool = True) -> StoredManifest:
        digest = digest_of(data)
        file = self._file(digest)
        with storage_errors(f"cannot write {file}"):
            if self._kept(digest) is None:
                make_folder(self._folder)
                replace_file(file, data, self._scratch, durable=False)
            elif is_new:
                os.utime(file)
            modified_at = file.stat().st_mtime
        return StoredManifest(name=name, data=data, digest=digest, modified_at=modified_at)

    def _kept(self, digest: Digest) -> bytes | None:
        with suppress(OSError):
            data = read_regular(self._file(digest), _LIMIT_BYTES)
            return data if digest_of(data) == digest else None
        return None

    def _file(self, digest: Digest) -> Path:
        return self._folder / digest.partition(":")[2]

    def _noted(self) -> set[str]:
        """The repositories that this machine has stored models in: those may be missing in the settings."""
        try:
            return set(msgspec.json.decode(read_regular(self._folder / "repositories", _LIMIT_BYTES), type=list[str]))
        except (OSError, *MALFORMED):
            return set()

    def _note(self, path: str) -> None:
        with storage_errors(f"cannot write to {self._folder}"):
            data = msgspec.json.encode(sorted(self._noted() | {path}))
            replace_file(self._folder / "repositories", data, self._scratch)


def _is_tombstone(manifest: bytes) -> bool:
    try:
        return msgspec.json.decode(manifest, type=_Typed).artifact_type == TOMBSTONE
    except MALFORMED:
        return False
