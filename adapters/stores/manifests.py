"""Manifests in Ollama's on-disk layout: ``manifests/<host>/<namespace>/<model>/<tag>``."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import msgspec

from corral.adapters.stores.kept import keep
from corral.adapters.stores.manifest_files import check_inside, read_manifest
from corral.adapters.stores.manifest_listing import ManifestListing
from corral.adapters.stores.manifest_paths import LEVELS, check_name, spelt
from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.stores.store_locks import StoreLocks
from corral.adapters.stores.unchanged import KnownManifest, KnownManifests, settled
from corral.adapters.system.blocking_work import in_thread
from corral.adapters.system.files import make_folder, replace_file, storage_errors, sync_folder
from corral.adapters.system.local_disk import on_local_disk
from corral.core.errors import Conflict, StorageError
from corral.core.models.digests import Digest, mentioned_digests
from corral.core.models.names import ModelName
from corral.core.ports.manifests import ManifestEntry, StoredManifest
from corral.core.specs.converters import DERIVED_HOST

__all__ = ("FilesystemManifests",)

_ATTEMPTS = 100  # a real Ollama takes no lock, and removes folders that are momentarily empty


class FilesystemManifests:
    """Safe for concurrent tasks and processes. Names are compared without case, and keep the case they were stored in.

    Derived models are kept under ``.corral``, because an Ollama that shares the store would list them. Those that an
    earlier version stored among the others are found there, and moved when the store next changes.

    A manifest that is a link out of the store is treated as unreadable, so that no name reaches another file.
    """

    def __init__(self, root: Path) -> None:
        self._folders = StoreFolders(root)
        self._locks = StoreLocks(self._folders)
        self._known = KnownManifests()
        self._listing = ManifestListing(self._folders, self._known)

    async def get(self, name: ModelName) -> StoredManifest | None:
        known = self._known.get(name)
        if known is None:
            check_name(name)
        elif known.on_local_disk and known.is_current():  # one `stat`: a thread would cost much more
            return known.stored
        return await in_thread(lambda _: self._look_up(name, known))

    async def put(self, name: ModelName, data: bytes, *, if_digest: Digest | None = None) -> StoredManifest:
        check_name(name)
        async with self._locks.changes():
            return await in_thread(lambda _: self._put(name, data, if_digest))

    async def delete(self, name: ModelName) -> bool:
        check_name(name)
        async with self._locks.changes():
            return await in_thread(lambda _: self._delete(name))

    async def list(self, *, strict: bool = False) -> AsyncGenerator[ManifestEntry, None]:
        # All at once: a switch to a thread for each manifest would cost more than reading it.
        for entry in await in_thread(lambda stop: self._listing.entries(strict, stop)):
            yield entry

    def guard(self, *, exclusive: bool) -> AbstractAsyncContextManager[None]:
        return self._locks.guard(exclusive=exclusive)

    def claim(self, name: ModelName) -> AbstractAsyncContextManager[None]:
        return self._locks.claim(name)

    def _look_up(self, name: ModelName, known: KnownManifest | None) -> StoredManifest | None:
        if known is not None and known.is_current():
            return known.stored
        now_ns = time.time_ns()
        path, preferred = self._locate(name)
        read = read_manifest(self._folders, path)
        if read is None:
            return None
        stored, fingerprint = read
        if settled(fingerprint, now_ns):
            known = KnownManifest(
                path=path,
                preferred=preferred,
                fingerprint=fingerprint,
                stored=stored,
                on_local_disk=on_local_disk(path),
            )
            self._known.put(name, known)
        return stored

    def _locate(self, name: ModelName) -> tuple[Path, tuple[Path, ...]]:
        """The path in the spelling found on disk as far as it exists, and paths that would take precedence over it."""
        path, preferred = spelt(self._root_of(name), name)
        if _is_derived(name) and not os.path.lexists(path):
            old, preferred_old = spelt(self._folders.manifests, name)
            if os.path.lexists(old):
                return old, (path, *preferred, *preferred_old)
        return path, preferred

    def _root_of(self, name: ModelName) -> Path:
        return self._folders.derived if _is_derived(name) else self._folders.manifests

    def _move_derived(self) -> None:
        """Moves what an earlier version left among Ollama's manifests. The caller holds the lock for changes."""
        for folder in self._listing.children(self._folders.manifests):
            if folder.name.lower() != DERIVED_HOST:
                continue
            for path in self._listing.below(folder, levels=LEVELS - 1):
                with suppress(StorageError), storage_errors(f"cannot move the manifest {path}"):
                    stored = self._read(path)
                    target = self._folders.derived.joinpath(*path.parts[-LEVELS:])
                    if stored is None or os.path.lexists(target):
                        continue
                    keep(self._folders, mentioned_digests(stored.data))
                    make_folder(target.parent)
                    os.replace(path, target)
                    _remove_empty(path)

    def _read(self, path: Path) -> StoredManifest | None:
        read = read_manifest(self._folders, path)
        return None if read is None else read[0]

    def _put(self, name: ModelName, data: bytes, if_digest: Digest | None) -> StoredManifest:
        self._move_derived()
        path, _ = self._locate(name)
        replaced = None
        with suppress(StorageError):  # an unreadable manifest is replaced anyway
            replaced = self._read(path)
        if if_digest is not None and (replaced is None or replaced.digest != if_digest):
            raise Conflict(
                f"'{name}' was changed by another process or task", "check its current state, then repeat the change"
            )
        with storage_errors(f"cannot write the manifest {path}"):
            for attempt in range(_ATTEMPTS):
                try:
                    check_inside(self._folders, path.parent)
                    if _is_derived(name):
                        keep(self._folders, mentioned_digests(data))
                    make_folder(path.parent)
                    replace_file(path, data, self._folders.scratch)
                    break
                except FileNotFoundError:
                    if attempt == _ATTEMPTS - 1:
                        raise
        stored = self._read(path)
        if stored is None:
            raise Conflict(f"'{name}' was deleted by another process at the same time")
        return msgspec.structs.replace(stored, replaced=None if replaced is None else replaced.data)

    def _delete(self, name: ModelName) -> bool:
        self._move_derived()
        path, _ = self._locate(name)
        with storage_errors(f"cannot delete the manifest {path}"):
            check_inside(self._folders, path.parent)
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return False
            # Before its blobs go: a power cut must not bring back a model without them.
            sync_folder(path.parent)
            _remove_empty(path)
        return True


def _is_derived(name: ModelName) -> bool:
    return name.host.lower() == DERIVED_HOST


def _remove_empty(path: Path) -> None:
    """Removes the folders above a manifest, as far as they are empty."""
    with suppress(OSError):  # not empty: done
        for folder in path.parents[: LEVELS - 1]:
            folder.rmdir()
