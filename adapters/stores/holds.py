"""Blobs that a living process needs although no manifest names them yet, known to every process on the store."""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from collections import Counter
from contextlib import suppress
from pathlib import Path

from corral.adapters.system.file_locks import FileLock
from corral.adapters.system.files import replace_file, storage_errors, write_all
from corral.core.errors import Conflict, InvalidDigest
from corral.core.models.digests import Digest, parse_digest

__all__ = ("Holds",)


class Holds:
    """``<folder>/<id>.held`` has a line for each blob that one process holds; it counts while ``<id>.lock`` is locked.

    Thread-safe. All calls block, and raise `StorageError`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._busy = threading.Lock()
        self._file: Path | None = None
        self._counts: Counter[Digest] = Counter()

    def add(self, digest: Digest) -> None:
        """Holds the blob until this object or its process is gone, or until as many calls of `remove`."""
        digest = parse_digest(digest)
        line = f"\n{digest}\n".encode()  # behind one that a full disk has cut
        with self._busy, storage_errors(f"cannot write to {self._folder}"):
            if not self.has(digest):
                if self._file is None:
                    self._file = self._begin()
                descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                with open(descriptor, "ab", buffering=0) as file:
                    write_all(file, line)
            self._counts[digest] += 1  # only now: what could not be written is not held

    def has(self, digest: Digest) -> bool:
        """Whether this object holds the blob. Does not block."""
        return self._counts.get(digest, 0) > 0

    def remove(self, digest: Digest) -> None:
        """Ends one hold, if there is any."""
        with self._busy, storage_errors(f"cannot write to {self._folder}"):
            if not self.has(digest):
                return
            self._counts[digest] -= 1
            if not self.has(digest) and self._file is not None:
                del self._counts[digest]
                left = "".join(f"{one}\n" for one in self._counts)
                replace_file(self._file, left.encode(), self._folder, durable=False)

    def all(self) -> frozenset[Digest]:
        """What any living process holds. Removes what dead ones left."""
        found = set[Digest]()
        with storage_errors(f"cannot read {self._folder}"):
            for file in self._folder.glob("*.held"):
                lock = FileLock(file.with_suffix(".lock"), remove=True)
                if lock.try_acquire():
                    file.unlink(missing_ok=True)
                    lock.release()
                    continue
                with suppress(FileNotFoundError):
                    for line in file.read_text().splitlines():
                        with suppress(InvalidDigest):  # the last one may be half written
                            found.add(parse_digest(line))
        return frozenset(found)

    def _begin(self) -> Path:
        file = self._folder / f"{uuid.uuid4().hex}.held"
        lock = FileLock(file.with_suffix(".lock"), remove=True)
        if not lock.try_acquire():
            raise Conflict(f"{file} is held by another process")
        weakref.finalize(self, _end, file, lock)
        return file


def _end(file: Path, lock: FileLock) -> None:
    with suppress(OSError):
        file.unlink(missing_ok=True)
    lock.release()
