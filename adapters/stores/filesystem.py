"""Blobs in files; an existing folder of Ollama, or an OCI image layout, is used in place."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from io import RawIOBase
from pathlib import Path

from corral.adapters.stores.adoption import AdoptionNotes, bring, fingerprint_of
from corral.adapters.stores.blob_files import BlobFiles, OllamaBlobFiles
from corral.adapters.stores.holds import Holds
from corral.adapters.stores.manifests import FilesystemManifests
from corral.adapters.stores.model_folders import ModelFolders
from corral.adapters.stores.partials import PartialWriter, scratch_path, sweep, written_ranges
from corral.adapters.stores.pins import pinned
from corral.adapters.stores.ranges import Range
from corral.adapters.stores.store_folders import StoreFolders
from corral.adapters.stores.workspaces import workspace
from corral.adapters.system.blocking_work import in_thread
from corral.adapters.system.file_locks import FileLock
from corral.adapters.system.files import CHUNK_BYTES, hash_file, make_folder, storage_errors, sync_folder
from corral.core.errors import BlobNotFound, Conflict, StorageError
from corral.core.models.digests import Digest, parse_digest
from corral.core.ports.blobs import BlobInfo, BlobWriter, OnStored, ignore_digest
from corral.core.regular_files import open_regular

__all__ = ("FilesystemBlobs", "FilesystemManifests")

_log = logging.getLogger(__name__)
_READ_BYTES = 4 * CHUNK_BYTES
"""Read at once in a thread: changing threads for every chunk takes as long as reading it."""


class FilesystemBlobs:
    """`files` says where a blob lies: ``<root>/blobs/sha256-<hex>``, unless it says otherwise.

    Partial blobs and notes on adopted files are under ``<root>/.corral``.

    Safe for concurrent tasks and processes, including a real Ollama. Reading writes nothing, so another user's store
    can be read. Folders are created when they are first needed.
    """

    def __init__(self, root: Path, files: BlobFiles | None = None) -> None:
        self._folders = StoreFolders(root)
        self._files = files or OllamaBlobFiles(self._folders)
        self._notes = AdoptionNotes(self._folders.adopted, self._folders.scratch)
        self._models = ModelFolders(self._folders.folders, self._folders.scratch)
        self._holds = Holds(self._folders.holds)

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be. Raises `InvalidDigest`, so nothing but a digest becomes a path."""
        return self._files.path(digest)

    @asynccontextmanager
    async def local(self, digest: Digest) -> AsyncIterator[Path]:
        if await self.stat(digest) is None:
            raise _not_found(digest)
        async with pinned(self.path(digest), self._folders.pins) as path:
            yield path

    async def stat(self, digest: Digest) -> BlobInfo | None:
        return await in_thread(lambda stop: self._stat(digest, stop))

    async def read(self, digest: Digest, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        info = await self.stat(digest)
        if info is None:
            raise _not_found(digest)
        end = info.size_bytes if end is None else min(end, info.size_bytes)
        with storage_errors(f"cannot read blob {digest}"):
            file = await in_thread(lambda _: open_regular(self.path(digest)), undo=lambda unread: unread.close())
            try:
                file.seek(start)  # only sets an offset, does not touch the disk
                while start < end:
                    chunks = await in_thread(partial(_read_chunks, file, min(_READ_BYTES, end - start)))
                    if not chunks:
                        raise StorageError(f"blob {digest} got shorter while it was being read")
                    chunks.reverse()
                    while chunks:  # each is let go of when it is handed on
                        start += len(chunks[-1])
                        yield chunks.pop()
            finally:
                file.close()

    async def begin(self, digest: Digest | None = None, size_bytes: int | None = None) -> BlobWriter:
        digest = parse_digest(digest) if digest else None

        def work(_: threading.Event) -> PartialWriter:
            with storage_errors(f"cannot write to {self._folders.partials}"):
                self._files.prepare()
                make_folder(self._folders.partials)
                sweep(self._folders.partials)
            return PartialWriter.open(self._folders.partials, digest, size_bytes, self._publish)

        return await in_thread(work, undo=lambda writer: writer.release(keep=True))

    async def partial(self, digest: Digest) -> Sequence[Range]:
        return await in_thread(lambda _: written_ranges(self._folders.partials, parse_digest(digest)))

    async def delete(self, digest: Digest) -> bool:
        def work(_: threading.Event) -> bool:
            with storage_errors(f"cannot delete blob {digest}"):
                found = self._files.delete(digest)
                self._notes.remove(parse_digest(digest))
                (self._folders.metadata / parse_digest(digest).partition(":")[2]).unlink(missing_ok=True)
                return found

        parse_digest(digest)
        async with self._files.changing():
            return await in_thread(work)

    async def list(self) -> AsyncIterator[BlobInfo]:
        for digest in await in_thread(lambda _: self._files.digests()):
            with suppress(StorageError):  # one unreadable blob does not hide the others
                info = await self.stat(digest)
                if info is not None:
                    yield info

    async def hold(self, digest: Digest) -> None:
        await in_thread(lambda _: self._holds.add(digest))

    async def release(self, digest: Digest) -> None:
        if self._holds.has(digest):
            await in_thread(lambda _: self._holds.remove(digest))

    async def held(self) -> frozenset[Digest]:
        return await in_thread(lambda _: self._holds.all())

    async def adopt(self, file: Path, *, on_stored: OnStored = ignore_digest) -> BlobInfo:
        stored: list[Digest] = []
        try:
            return await in_thread(lambda stop: self._adopt(file, stop, stored.append))
        finally:  # the thread has ended, also if the call was cancelled
            for digest in stored:
                on_stored(digest)

    async def folder(self, key: Digest, files: Mapping[str, Digest], *, elsewhere: Mapping[Digest, Path] = {}) -> Path:
        for path, digest in files.items():
            if digest not in elsewhere and await self.stat(digest) is None:
                raise BlobNotFound(
                    f"the blob {digest} of {path!r} is missing, or has changed since it was imported",
                    "import or pull the model again",
                )
        shown = {path: elsewhere.get(digest) or self.path(digest) for path, digest in files.items()}
        return await self._models.show(key, shown)

    async def drop_folder(self, key: Digest) -> None:
        await self._models.drop(key)

    def scratch(self) -> AbstractAsyncContextManager[Path]:
        return workspace(self._folders.workspaces)

    def _stat(self, digest: Digest, stop: threading.Event) -> BlobInfo | None:
        path = self.path(digest)
        with storage_errors(f"cannot read blob {digest}"):
            try:
                status = path.stat()
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                return None  # circular links have no bytes
            if not stat.S_ISREG(status.st_mode):
                return None
            intact = self._notes.verdict(digest, status)
            if intact is None:
                intact = hash_file(path, stop) == digest
                with suppress(OSError):  # in a read-only store, it is hashed each time
                    self._notes.put(digest, fingerprint_of(status), intact=intact)
                if not intact:
                    _log.warning("%s is a hard link to a file that has changed since it was imported", path)
        if not intact:
            return None
        noted_at = self._notes.noted_at(digest)
        modified_at = status.st_mtime if noted_at is None else noted_at
        return BlobInfo(digest=digest, size_bytes=status.st_size, modified_at=modified_at)

    def _renew(self, digest: Digest) -> None:
        """Notes that the blob was stored again, so that it is not taken for one that nobody needs any more."""
        if not self._notes.renew(digest):  # the time of a linked file is not ours to change
            with suppress(OSError):  # another user's file
                os.utime(self.path(digest))

    def _publish(self, path: Path, digest: Digest) -> BlobInfo:
        """The `Publish` of this store's writers."""
        size_bytes = path.stat().st_size
        self._files.prepare()
        if self._stat(digest, threading.Event()) is None:
            os.utime(path)  # a resumed partial may have got its last byte long ago
            os.replace(path, self.path(digest))
            self._notes.remove(digest)
            sync_folder(self._files.folder)
        else:
            self._renew(digest)
        return self._stored(digest, size_bytes)

    def _stored(self, digest: Digest, size_bytes: int) -> BlobInfo:
        """The blob that was just stored, even if another process has deleted it at once."""
        known = self._stat(digest, threading.Event())
        return known or BlobInfo(digest=digest, size_bytes=size_bytes, modified_at=time.time())

    def _adopt(self, file: Path, stop: threading.Event, on_stored: OnStored) -> BlobInfo:
        with storage_errors(f"cannot add {file} to the store"):
            source = file.resolve(strict=True)
            if not source.is_file():
                raise StorageError(f"cannot add {file} to the store: it is not a regular file")
            self._files.prepare()
            make_folder(self._folders.partials)
            sweep(self._folders.partials)
            scratch = scratch_path(self._folders.partials)
            lock = FileLock(scratch.with_suffix(".lock"), remove=True)
            if not lock.try_acquire():
                raise Conflict(f"{scratch} is held by another process")
            try:
                return self._take(source, scratch, stop, on_stored)
            finally:
                scratch.unlink(missing_ok=True)
                lock.release()

    def _take(self, source: Path, scratch: Path, stop: threading.Event, on_stored: OnStored) -> BlobInfo:
        linked = bring(source, scratch, stop)
        before = fingerprint_of(scratch.stat())
        digest = hash_file(scratch, stop)
        if fingerprint_of(scratch.stat()) != before:
            raise StorageError(f"{source} changed while it was being read", "import it again")
        if self._stat(digest, stop) is None:
            if linked:
                self._notes.put(
                    digest, before, intact=True
                )  # written before the blob, which cannot be trusted without it
            os.replace(scratch, self.path(digest))
            on_stored(digest)  # what follows may fail
            if not linked:
                self._notes.remove(digest)
            sync_folder(self._files.folder)
        else:
            on_stored(digest)
            self._renew(digest)
        return self._stored(digest, before.size_bytes)


def _not_found(digest: Digest) -> BlobNotFound:
    return BlobNotFound(
        f"the blob {digest} is missing, or has changed since it was imported", "import or pull the model again"
    )


def _read_chunks(file: RawIOBase, size_bytes: int, stop: threading.Event) -> list[bytes]:
    """Fewer bytes at the end of the file, or if it is asked to stop."""
    chunks: list[bytes] = []
    while size_bytes and not stop.is_set() and (chunk := file.read(min(CHUNK_BYTES, size_bytes))):
        chunks.append(chunk)
        size_bytes -= len(chunk)
    return chunks
