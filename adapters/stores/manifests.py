"""Manifests in Ollama's on-disk layout: ``manifests/<host>/<namespace>/<model>/<tag>``."""

from __future__ import annotations

import builtins
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

from corral.adapters.stores.files import StoreFolders, replace_file, storage_errors
from corral.adapters.stores.locks import FileLock
from corral.adapters.threads import in_thread
from corral.core.errors import Conflict, InvalidName, StorageError
from corral.core.models import Digest, digest_of
from corral.core.names import ModelName, parse_name
from corral.core.ports.storage import StoredManifest

__all__ = ("FilesystemManifests",)

_log = logging.getLogger(__name__)

_LIMIT_BYTES = 4 * 1024 * 1024
_ATTEMPTS = 100  # a real Ollama takes no lock and removes folders that are empty for a moment
_LEVELS = 4


class FilesystemManifests:
    """Safe for many tasks and processes. Names are compared without case, and keep the case they were stored with.

    A manifest that is a link out of the store is treated as unreadable, so that no name reaches another file.
    """

    def __init__(self, root: Path) -> None:
        self._folders = StoreFolders(root)
        self._complained: set[Path] = set()

    async def get(self, name: ModelName) -> StoredManifest | None:
        _check(name)
        return await in_thread(lambda _: self._read(self._locate(name)))

    async def put(self, name: ModelName, data: bytes, *, if_digest: Digest | None = None) -> StoredManifest:
        _check(name)
        async with FileLock(self._folders.own / "manifests.lock"):
            return await in_thread(lambda _: self._put(name, data, if_digest))

    async def delete(self, name: ModelName) -> bool:
        _check(name)
        async with FileLock(self._folders.own / "manifests.lock"):
            return await in_thread(lambda _: self._delete(name))

    async def list(self, *, strict: bool = False) -> AsyncGenerator[StoredManifest, None]:
        for stored in await in_thread(lambda _: self._scan(strict)):
            yield stored

    def guard(self, *, exclusive: bool) -> AbstractAsyncContextManager[None]:
        return self._guard(exclusive)

    @asynccontextmanager
    async def _guard(self, exclusive: bool) -> AsyncIterator[None]:
        async with FileLock(self._folders.own / "store.lock", exclusive=exclusive):
            yield

    def claim(self, name: ModelName) -> AbstractAsyncContextManager[None]:
        _check(name)
        return self._claim(digest_of(name.key.encode()).partition(":")[2])

    @asynccontextmanager
    async def _claim(self, key: str) -> AsyncIterator[None]:
        async with FileLock(self._folders.claims / f"{key}.lock", remove=True, timeout_s=None):
            yield

    def _locate(self, name: ModelName) -> Path:
        """The path with the spelling found on disk, as deep as there is one."""
        path = self._folders.manifests
        for part in name.parts:
            path /= _spelling(path, part)
        return path

    def _read(self, path: Path) -> StoredManifest | None:
        with storage_errors(f"cannot read the manifest {path}"):
            try:
                self._check_inside(path)
                with path.open("rb") as file:
                    data = file.read(_LIMIT_BYTES + 1)
                    modified_at = os.fstat(file.fileno()).st_mtime
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        if len(data) > _LIMIT_BYTES:
            raise StorageError(f"the manifest {path} is larger than {_LIMIT_BYTES} bytes")
        return StoredManifest(name=_name_of(path), data=data, digest=digest_of(data), modified_at=modified_at)

    def _put(self, name: ModelName, data: bytes, if_digest: Digest | None) -> StoredManifest:
        path = self._locate(name)
        if if_digest is not None:
            found = self._read(path)
            if found is None or found.digest != if_digest:
                raise Conflict(f"'{name}' was changed by somebody else", "look at it again, then repeat the change")
        with storage_errors(f"cannot write the manifest {path}"):
            for attempt in range(_ATTEMPTS):
                try:
                    self._check_inside(path.parent)
                    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
                    replace_file(path, data, self._folders.scratch)
                    break
                except FileNotFoundError:
                    if attempt == _ATTEMPTS - 1:
                        raise
        stored = self._read(path)
        if stored is None:
            raise Conflict(f"'{name}' was deleted by somebody else in the same moment")
        return stored

    def _delete(self, name: ModelName) -> bool:
        path = self._locate(name)
        with storage_errors(f"cannot delete the manifest {path}"):
            self._check_inside(path.parent)
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return False
            with suppress(OSError):  # not empty: done
                for folder in path.parents[: _LEVELS - 1]:
                    folder.rmdir()
        return True

    def _scan(self, strict: bool) -> builtins.list[StoredManifest]:
        # In one go: a hop to a thread per manifest costs more than reading it.
        found = []
        for path in self._paths():
            try:
                stored = self._read(path)
            except StorageError as error:
                if strict:
                    raise
                if path not in self._complained:
                    self._complained.add(path)
                    _log.warning("a manifest is passed over: %s", error)
                continue
            if stored is not None:
                found.append(stored)
        return found

    def _paths(self) -> tuple[Path, ...]:
        with storage_errors(f"cannot list {self._folders.manifests}"):
            level = [self._folders.manifests]
            for depth in range(_LEVELS):
                files = depth == _LEVELS - 1
                level = [child for folder in level for child in _children(folder, files=files)]
            return tuple(path for path in level if _is_name(path))

    def _check_inside(self, path: Path) -> None:
        root = os.path.realpath(self._folders.manifests)
        real = os.path.realpath(path)
        if os.path.commonpath((root, real)) != root:
            raise StorageError(f"the manifest {path} leads out of the store, to {real}", "replace the link by a file")


def _check(name: ModelName) -> None:
    # A name that did not come from `parse_name` (decoded, made by hand) must not become a path.
    if parse_name(name.full).parts != name.parts:
        raise InvalidName(f"invalid model name: {name.full[:100]!r}")


def _spelling(folder: Path, part: str) -> str:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return part
    except OSError as error:
        raise StorageError(f"cannot list {folder}: {error.strerror}") from error
    if part in names:
        return part
    return next((name for name in sorted(names) if name.lower() == part.lower()), part)


def _children(folder: Path, *, files: bool) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if (entry.is_file() if files else entry.is_dir())]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(found)]


def _name_of(path: Path) -> ModelName:
    host, namespace, model, tag = path.parts[-_LEVELS:]
    return ModelName(host=host, namespace=namespace, model=model, tag=tag)


def _is_name(path: Path) -> bool:
    try:
        _check(_name_of(path))
    except InvalidName:
        return False
    return True
