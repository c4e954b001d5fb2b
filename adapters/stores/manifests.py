"""Manifests in Ollama's on-disk layout: ``manifests/<host>/<namespace>/<model>/<tag>``."""

from __future__ import annotations

import builtins
import errno
import io
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec

from corral.adapters.stores.adoption import Fingerprint, fingerprint_of
from corral.adapters.stores.files import StoreFolders, replace_file, storage_errors
from corral.adapters.stores.kept import keep
from corral.adapters.stores.locks import FileLock
from corral.adapters.stores.manifest_paths import LEVELS, check_name, is_name, name_of, spelt
from corral.adapters.stores.unchanged import KnownManifest, KnownManifests, settled
from corral.adapters.system.local_disk import on_local_disk
from corral.adapters.system.threads import in_thread
from corral.core.errors import Conflict, StorageError
from corral.core.models.digests import Digest, digest_of, mentioned_digests
from corral.core.models.names import ModelName
from corral.core.ports.manifests import StoredManifest
from corral.core.regular_files import open_regular
from corral.core.specs.converters import DERIVED_HOST

__all__ = ("FilesystemManifests",)

_log = logging.getLogger(__name__)

_LIMIT_BYTES = 4 * 1024 * 1024
_BATCH_BYTES = 4 * 1024 * 1024  # of manifests in memory at once while the store is listed
_ATTEMPTS = 100  # a real Ollama takes no lock and removes folders that are empty for a moment
_LATEST_S = 253_370_764_800.0  # the year 9999: what calendars can show


class FilesystemManifests:
    """Safe for many tasks and processes. Names are compared without case, and keep the case they were stored with.

    Derived models are apart, under ``.corral``: an Ollama that shares the store would list them. Those that an earlier
    version put among the others are found there, and moved with the next change of the store.

    A manifest that is a link out of the store is treated as unreadable, so that no name reaches another file.
    """

    def __init__(self, root: Path) -> None:
        self._folders = StoreFolders(root)
        self._known = KnownManifests()
        self._complained: set[Path] = set()

    async def get(self, name: ModelName) -> StoredManifest | None:
        known = self._known.get(name)
        if known is None:
            check_name(name)
        elif known.on_local_disk and known.is_current():  # one `stat`: a thread would cost much more
            return known.stored
        found, fresh = await in_thread(lambda _: self._look_up(name, known))
        if fresh is not None:
            self._known.put(name, fresh)
        return found

    async def put(self, name: ModelName, data: bytes, *, if_digest: Digest | None = None) -> StoredManifest:
        check_name(name)
        async with FileLock(self._folders.own / "manifests.lock"):
            return await in_thread(lambda _: self._put(name, data, if_digest))

    async def delete(self, name: ModelName) -> bool:
        check_name(name)
        async with FileLock(self._folders.own / "manifests.lock"):
            return await in_thread(lambda _: self._delete(name))

    async def list(self, *, strict: bool = False) -> AsyncGenerator[StoredManifest, None]:
        paths = await in_thread(lambda _: self._paths(strict))
        done = 0
        while done < len(paths):
            # Many in one go: a hop to a thread per manifest costs more than reading it.
            found, count = await in_thread(partial(self._read_some, paths[done:], strict))
            done += count
            for stored in found:
                yield stored

    def guard(self, *, exclusive: bool) -> AbstractAsyncContextManager[None]:
        return self._guard(exclusive)

    @asynccontextmanager
    async def _guard(self, exclusive: bool) -> AsyncIterator[None]:
        async with FileLock(self._folders.own / "store.lock", exclusive=exclusive):
            yield

    def claim(self, name: ModelName) -> AbstractAsyncContextManager[None]:
        check_name(name)
        return self._claim(digest_of(name.key.encode()).partition(":")[2])

    @asynccontextmanager
    async def _claim(self, key: str) -> AsyncIterator[None]:
        async with FileLock(self._folders.claims / f"{key}.lock", remove=True, timeout_s=None):
            yield

    def _look_up(
        self, name: ModelName, known: KnownManifest | None
    ) -> tuple[StoredManifest | None, KnownManifest | None]:
        """The manifest, and what to remember of it if that is new and can be relied on."""
        if known is not None and known.is_current():
            return known.stored, None
        now_ns = time.time_ns()
        path, preferred = self._locate(name)
        read = self._read_file(path)
        if read is None:
            return None, None
        stored, fingerprint = read
        if not settled(fingerprint, now_ns):
            return stored, None
        return stored, KnownManifest(
            path=path,
            preferred=preferred,
            fingerprint=fingerprint,
            stored=stored,
            on_local_disk=on_local_disk(path),
        )

    def _locate(self, name: ModelName) -> tuple[Path, tuple[Path, ...]]:
        """The path with the spelling found on disk, as deep as there is one, and paths that would come before it."""
        path, preferred = spelt(self._root_of(name), name)
        if _is_derived(name) and not os.path.lexists(path):
            old, preferred_old = spelt(self._folders.manifests, name)
            if os.path.lexists(old):
                return old, (path, *preferred, *preferred_old)
        return path, preferred

    def _root_of(self, name: ModelName) -> Path:
        return self._folders.derived if _is_derived(name) else self._folders.manifests

    def _move_derived(self) -> None:
        """Of what an earlier version left among Ollama's manifests. Whoever calls holds the lock of changes."""
        for folder in self._children(self._folders.manifests, files=False, strict=False):
            if folder.name.lower() != DERIVED_HOST:
                continue
            for path in self._below([folder], levels=LEVELS - 1, strict=False):
                with suppress(StorageError), storage_errors(f"cannot move the manifest {path}"):
                    stored = self._read(path)
                    target = self._folders.derived.joinpath(*path.parts[-LEVELS:])
                    if stored is None or os.path.lexists(target):
                        continue
                    keep(self._folders, mentioned_digests(stored.data))
                    target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
                    os.replace(path, target)
                    _remove_empty(path)

    def _read(self, path: Path) -> StoredManifest | None:
        read = self._read_file(path)
        return None if read is None else read[0]

    def _read_file(self, path: Path) -> tuple[StoredManifest, Fingerprint] | None:
        with storage_errors(f"cannot read the manifest {path}"):
            try:
                self._check_inside(path)
                with io.BufferedReader(open_regular(path)) as file:
                    status = os.fstat(file.fileno())  # before reading: a write meanwhile makes it outdated
                    data = file.read(_LIMIT_BYTES + 1)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        if len(data) > _LIMIT_BYTES:
            raise StorageError(f"the manifest {path} is larger than {_LIMIT_BYTES} bytes")
        modified_at = min(max(status.st_mtime, 0.0), _LATEST_S)
        stored = StoredManifest(name=name_of(path), data=data, digest=digest_of(data), modified_at=modified_at)
        return stored, fingerprint_of(status)

    def _put(self, name: ModelName, data: bytes, if_digest: Digest | None) -> StoredManifest:
        self._move_derived()
        path, _ = self._locate(name)
        replaced = None
        with suppress(StorageError):  # what cannot be read is replaced all the same
            replaced = self._read(path)
        if if_digest is not None and (replaced is None or replaced.digest != if_digest):
            raise Conflict(
                f"'{name}' was changed by another process or task", "check its current state, then repeat the change"
            )
        with storage_errors(f"cannot write the manifest {path}"):
            for attempt in range(_ATTEMPTS):
                try:
                    self._check_inside(path.parent)
                    if _is_derived(name):
                        keep(self._folders, mentioned_digests(data))
                    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
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
            self._check_inside(path.parent)
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return False
            _remove_empty(path)
        return True

    def _read_some(
        self, paths: Sequence[Path], strict: bool, _: threading.Event
    ) -> tuple[builtins.list[StoredManifest], int]:
        """The manifests at the first of `paths`, and how many of these were dealt with: at least one."""
        found, count, size_bytes = list[StoredManifest](), 0, 0
        for path in paths:
            count += 1
            try:
                stored = self._read(path)
            except StorageError as error:
                self._pass_over(path, error, strict)
                continue
            if stored is not None:
                found.append(stored)
                size_bytes += len(stored.data)
            if size_bytes >= _BATCH_BYTES:
                break
        return found, count

    def _paths(self, strict: bool) -> tuple[Path, ...]:
        derived = self._below([self._folders.derived], levels=LEVELS, strict=strict)
        moved = {path.relative_to(self._folders.derived) for path in derived}
        paths = self._below([self._folders.manifests], levels=LEVELS, strict=strict)
        return (*(path for path in paths if path.relative_to(self._folders.manifests) not in moved), *derived)

    def _below(self, folders: Sequence[Path], *, levels: int, strict: bool) -> tuple[Path, ...]:
        """What has a name so many levels below."""
        level = folders
        for depth in range(levels):
            files = depth == levels - 1
            level = [child for folder in level for child in self._children(folder, files=files, strict=strict)]
        return tuple(path for path in level if is_name(path))

    def _children(self, folder: Path, *, files: bool, strict: bool) -> builtins.list[Path]:
        """What is one level below: folders, or everything that is none where `files` are wanted."""
        try:
            self._check_inside(folder)
            with storage_errors(f"cannot list {folder}"), os.scandir(folder) as entries:
                return [
                    folder / name for name in sorted(entry.name for entry in entries if _may_be(entry, files=files))
                ]
        except StorageError as error:
            if not isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
                # Without the folder of all manifests there is no list: an empty one would be a lie.
                self._pass_over(folder, error, strict or folder == self._folders.manifests)
            return []

    def _pass_over(self, path: Path, error: StorageError, strict: bool) -> None:
        """A circle of links or a pipe holds no bytes and so names no blob: it is no fault of a strict list either."""
        cause = error.__cause__
        empty = isinstance(cause, OSError) and cause.errno in (errno.ELOOP, errno.EINVAL)
        if strict and not empty:
            raise error
        if path not in self._complained:
            self._complained.add(path)
            _log.warning("skipping a manifest: %s", error)

    def _check_inside(self, path: Path) -> None:
        own = path.is_relative_to(self._folders.derived)
        root = os.path.realpath(self._folders.derived if own else self._folders.manifests)
        real = os.path.realpath(path)
        if os.path.commonpath((root, real)) != root:
            raise StorageError(
                f"the manifest {path} is a link that leads out of the store, to {real}", "replace the link with a file"
            )


def _is_derived(name: ModelName) -> bool:
    return name.host.lower() == DERIVED_HOST


def _remove_empty(path: Path) -> None:
    """The folders that led to a manifest, as far as nothing else is in them."""
    with suppress(OSError):  # not empty: done
        for folder in path.parents[: LEVELS - 1]:
            folder.rmdir()


def _may_be(entry: os.DirEntry[str], *, files: bool) -> bool:
    """A link that leads in a circle may be either: whoever opens it says what is wrong."""
    try:
        return entry.is_dir() != files
    except OSError:
        return True
