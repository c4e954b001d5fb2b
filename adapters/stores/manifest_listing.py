"""Lists the manifests of a store. Files that have not changed since they were last read are not read again."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from corral.adapters.stores.manifest_files import check_inside, read_manifest
from corral.adapters.stores.manifest_paths import LEVELS, is_name, name_of
from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.stores.unchanged import KnownManifest, KnownManifests, settled
from corral.adapters.system.blocking_work import stop_if_asked
from corral.adapters.system.files import storage_errors
from corral.adapters.system.local_disk import on_local_disk
from corral.core.errors import StorageError
from corral.core.models.digests import mentioned_digests
from corral.core.ports.manifests import ManifestEntry, StoredManifest
from corral.core.regular_files import read_regular
from corral.core.specs.converters import DERIVED_HOST

__all__ = ("ManifestListing",)

_LIMIT_BYTES = 4 * 1024 * 1024

_log = logging.getLogger(__name__)


class ManifestListing:
    """Walks the folders of manifests. Every method blocks. What it skips is logged once."""

    def __init__(self, folders: StoreFolders, known: KnownManifests) -> None:
        self._folders = folders
        self._known = known
        self._complained: set[Path] = set()

    def entries(self, strict: bool, stop: threading.Event) -> list[ManifestEntry]:
        """What `ManifestStore.list` promises."""
        found = []
        for path in self._paths(strict):
            stop_if_asked(stop)
            try:
                stored = self._read(path)
            except StorageError as error:
                self._skip(path, error, strict)
                continue
            if stored is not None:
                entry = ManifestEntry(name=stored.name, digest=stored.digest, modified_at=stored.modified_at)
                found.append(entry)
        return found

    def children(self, folder: Path) -> list[Path]:
        """The folders in `folder`."""
        return self._children(folder, files=False, strict=False)

    def below(self, folder: Path, *, levels: int) -> list[Path]:
        """The files that lie `levels` below `folder` and whose path is a model's name."""
        return self._below([folder], levels=levels, strict=False)

    def _read(self, path: Path) -> StoredManifest | None:
        name = name_of(path)
        known = self._known.get(name)
        if known is not None and known.path == path and known.is_current():
            return known.stored
        now_ns = time.time_ns()
        read = read_manifest(self._folders, path)
        if read is None:
            return None
        stored, fingerprint = read
        misplaced = name.host.lower() == DERIVED_HOST and not path.is_relative_to(self._folders.derived)
        if settled(fingerprint, now_ns) and not misplaced:
            known = KnownManifest(
                path=path,
                preferred=(),
                fingerprint=fingerprint,
                stored=stored,
                on_local_disk=on_local_disk(path),
            )
            self._known.put(name, known)
        return stored

    def _paths(self, strict: bool) -> Sequence[Path]:
        if strict:
            self._require_manifests()
        derived = self._below([self._folders.derived], levels=LEVELS, strict=strict)
        moved = {path.parts[-LEVELS:] for path in derived}
        paths = self._below([self._folders.manifests], levels=LEVELS, strict=strict)
        return (*(path for path in paths if path.parts[-LEVELS:] not in moved), *derived)

    def _require_manifests(self) -> None:
        """Blobs without a folder of manifests: the disk with the manifests may not be mounted."""
        folders = self._folders
        with storage_errors(f"cannot list {folders.blobs}"), suppress(FileNotFoundError, NotADirectoryError):
            if not folders.manifests.is_dir() and next(folders.blobs.iterdir(), None) is not None:
                raise StorageError(
                    f"{folders.manifests} does not exist, but there are blobs in {folders.blobs}",
                    f"if these blobs are not needed, create {folders.manifests}",
                )

    def _below(self, folders: Sequence[Path], *, levels: int, strict: bool) -> list[Path]:
        level = folders
        for depth in range(levels):
            files = depth == levels - 1
            level = [child for folder in level for child in self._children(folder, files=files, strict=strict)]
        if strict:
            for path in level:
                if not is_name(path):
                    self._require_no_manifest(path)
        return [path for path in level if is_name(path)]

    def _require_no_manifest(self, path: Path) -> None:
        """Something that no name leads to may still be somebody's manifest, as Ollama sees it too."""
        with suppress(OSError):
            if mentioned_digests(read_regular(path, _LIMIT_BYTES)):
                raise StorageError(
                    f"{path} looks like a manifest, but its name is invalid", "rename or remove the file"
                )

    def _children(self, folder: Path, *, files: bool, strict: bool) -> list[Path]:
        """The children of `folder`: its folders, or with `files` everything else."""
        try:
            check_inside(self._folders, folder)
            with storage_errors(f"cannot list {folder}"), os.scandir(folder) as entries:
                return [
                    folder / name for name in sorted(entry.name for entry in entries if _may_be(entry, files=files))
                ]
        except StorageError as error:
            if not isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
                # If the folder of all manifests cannot be read, an empty list would be wrong.
                self._skip(folder, error, strict or folder == self._folders.manifests)
            return []

    def _skip(self, path: Path, error: StorageError, strict: bool) -> None:
        """Circular links and pipes have no bytes, so they name no blob: even a strict list skips them."""
        cause = error.__cause__
        empty = isinstance(cause, OSError) and cause.errno in (errno.ELOOP, errno.EINVAL)
        if strict and not empty:
            raise error
        if path not in self._complained:
            self._complained.add(path)
            _log.warning("skipping a manifest: %s", error)


def _may_be(entry: os.DirEntry[str], *, files: bool) -> bool:
    """A circular link may be either: opening it says what is wrong."""
    try:
        return entry.is_dir() != files
    except OSError:
        return True
