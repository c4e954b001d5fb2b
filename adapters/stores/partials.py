"""Blobs that are being written to a filesystem store: a partial file, a journal of its ranges, and a lock."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from corral.adapters.stores.frontier_hash import FrontierHash
from corral.adapters.stores.range_journal import RangeJournal, resumable
from corral.adapters.stores.ranges import Range, covers, frontier, merged
from corral.adapters.system.blocking_work import in_thread
from corral.adapters.system.file_locks import FileLock
from corral.adapters.system.files import storage_errors
from corral.core.errors import Conflict, DigestMismatch, StorageError
from corral.core.models.digests import Digest
from corral.core.ports.blobs import BlobInfo

__all__ = ("PartialWriter", "scratch_path", "sweep", "written_ranges")

_ABANDONED_AFTER_S = 7 * 24 * 3600.0  # downloads that were not resumed for a week

Publish = Callable[[Path, Digest], BlobInfo]
"""Moves a complete, verified file to its place. Blocking."""


def scratch_path(folder: Path) -> Path:
    """A new name for a file that only this process uses; its lock has the same name with ``.lock``."""
    return folder / f"scratch-{uuid.uuid4().hex}"


def sweep(folder: Path) -> None:
    """Deletes what dead writers left behind, unless it may be resumed. Never touches what is locked. Blocking."""
    try:
        stems = {name.partition(".")[0] for name in os.listdir(folder)}
    except FileNotFoundError:
        return
    for stem in sorted(stems):
        if not _abandoned(folder, stem):
            continue
        lock = FileLock(folder / f"{stem}.lock", remove=True)
        if lock.try_acquire():
            if _abandoned(folder, stem, locked=True):  # it may have been resumed, and left again, before it was locked
                for path in _files(folder, stem):
                    path.unlink(missing_ok=True)
            lock.release()


def _abandoned(folder: Path, stem: str, *, locked: bool = False) -> bool:
    """Whether the files of one partial blob can go. The newest of them decides: a partial with an old journal, or with
    old bytes, may just have been resumed.

    A scratch file that is not locked has no owner; a lock without a file may be just being taken. `locked`: by the
    caller, so that the lock says nothing.
    """
    if stem.startswith("scratch-") and (folder / stem).exists():
        return True
    newest_at = 0.0
    for path in _files(folder, stem):
        with suppress(FileNotFoundError):
            if locked and path.suffix == ".lock":
                continue
            newest_at = max(newest_at, path.stat().st_mtime)
    return time.time() - newest_at >= _ABANDONED_AFTER_S


def _files(folder: Path, stem: str) -> list[Path]:
    return [folder / stem, *folder.glob(f"{stem}.*")]


def written_ranges(folder: Path, digest: Digest) -> Sequence[Range]:
    """The ranges of a partial blob, whoever writes it; empty if there is none. Blocking."""
    found = RangeJournal(_journal_path(_path(folder, digest))).read()
    return tuple(found[1]) if found is not None else ()


def _path(folder: Path, digest: Digest) -> Path:
    return folder / digest.partition(":")[2]


def _journal_path(path: Path) -> Path:
    return path.with_suffix(".ranges")


class PartialWriter:
    """The `BlobWriter` of a filesystem store. Made by `open`, in a thread."""

    def __init__(
        self,
        path: Path,
        lock: FileLock,
        file: BinaryIO,
        journal: RangeJournal | None,
        *,
        size_bytes: int | None,
        ranges: list[Range],
        digest: Digest | None,
        publish: Publish,
    ) -> None:
        self._path = path
        self._lock = lock
        self._file = file
        self._journal = journal
        self._size_bytes = size_bytes
        self._ranges = ranges
        self._digest = digest
        self._publish = publish
        self._open = True
        self._busy = threading.Lock()
        self._turn = asyncio.Lock()  # writes wait here instead of each in a thread
        self._hash = FrontierHash(path)
        self._hash.advance(frontier(ranges))  # after a restart, what is there is hashed again

    @classmethod
    def open(cls, folder: Path, digest: Digest | None, size_bytes: int | None, publish: Publish) -> PartialWriter:
        """Raises `Conflict` if another writer holds this digest. Blocking."""
        path = _path(folder, digest) if digest else scratch_path(folder)
        lock = FileLock(path.with_suffix(".lock"), remove=True)
        if not lock.try_acquire():
            raise Conflict(f"{digest} is being written by another task or process", "try again when that is done")
        journal = RangeJournal(_journal_path(path)) if digest else None
        try:
            with storage_errors(f"cannot start writing {digest or 'a blob'} in {folder}"):
                size_bytes, ranges = resumable(path, journal, size_bytes)
                if journal is not None:
                    journal.start(size_bytes, ranges)
                flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
                flags |= 0 if ranges else os.O_TRUNC
                file = open(os.open(path, flags, 0o644), "r+b", buffering=0)  # noqa: SIM115  # closed by _release
        except BaseException:
            if journal is not None:
                journal.close()
            lock.release()
            raise
        return cls(path, lock, file, journal, size_bytes=size_bytes, ranges=ranges, digest=digest, publish=publish)

    @property
    def written(self) -> Sequence[Range]:
        return tuple(self._ranges)

    async def write(self, offset_bytes: int, data: bytes) -> None:
        async with self._turn:
            await in_thread(lambda _: self._write(offset_bytes, data))

    async def commit(self) -> BlobInfo:
        return await in_thread(self._commit)

    async def abort(self) -> None:
        await in_thread(lambda _: self.release(keep=False))

    async def close(self) -> None:
        await in_thread(lambda _: self.release(keep=True))

    def release(self, *, keep: bool) -> None:
        """Does the work of `abort` and `close`. Blocks briefly."""
        with self._busy:
            if self._open:
                self._release(keep=keep and self._digest is not None)

    def _write(self, offset_bytes: int, data: bytes) -> None:
        end = offset_bytes + len(data)
        size_bytes = self._size_bytes
        with self._busy, storage_errors(f"cannot write {self._path}"):
            self._check_open()
            if offset_bytes < 0 or (size_bytes is not None and end > size_bytes):
                raise StorageError(f"bytes {offset_bytes} to {end} are outside a blob of {size_bytes} bytes")
            self._file.seek(offset_bytes)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            self._hash.replaced(offset_bytes)
            self._ranges = merged([*self._ranges, (offset_bytes, end)])
            self._hash.advance(frontier(self._ranges))
            if self._journal is not None:
                self._journal.add((offset_bytes, end), size_bytes, self._ranges)

    def _commit(self, stop: threading.Event) -> BlobInfo:
        with self._busy, storage_errors(f"cannot store {self._path}"):
            self._check_open()
            ranges = self._ranges
            if not covers(ranges, self._size_bytes):
                raise StorageError(f"the blob is incomplete: it has {ranges} of {self._size_bytes} bytes")
            # An earlier writer may have died with bytes beyond its journal.
            self._file.truncate(frontier(ranges))
            found = self._hash.digest(frontier(ranges), stop)
            if self._digest not in (None, found):
                self._release(keep=False)
                raise DigestMismatch(f'digest mismatch, expected "{self._digest}", got "{found}"', "fetch it again")
            os.fsync(self._file.fileno())
            self._file.close()  # Windows renames closed files only
            info = self._publish(self._path, found)
            self._release(keep=False)
            return info

    def _release(self, *, keep: bool) -> None:
        self._open = False
        self._hash.close()
        self._file.close()
        if self._journal is not None:
            self._journal.close()
        if not keep:
            self._path.unlink(missing_ok=True)
            if self._journal is not None:
                self._journal.remove()
        self._lock.release()

    def _check_open(self) -> None:
        if not self._open:
            raise StorageError("this writer is closed")
