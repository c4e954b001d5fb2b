"""The folder of computed prefixes, which the models of a store share: several processes read, write and clear it.

Files appear by rename and disappear by unlink, and whoever loses a race has a miss. Prompts are private: the folder is
its owner's alone (0700), and so is each file (0600).
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from corral.adapters.engine_kit.prefixes.prefix_file import PrefixHead, file_parts, read_head, read_state, sealed
from corral.adapters.system.files import make_folder, new_file, storage_errors, sync_folder
from corral.core.regular_files import open_regular

__all__ = ("ABANDONED_S", "ClearedAt", "PrefixFolder", "StoredPrefix")

ABANDONED_S = 600.0
"""A temporary file that is older belongs to a process that died."""
_SUFFIX, _TEMPORARY, _CLEARED = ".prefix", ".tmp", "cleared"

ClearedAt = tuple[int, int]
"""When the prefixes of all models, and those of one, were last cleared: times in nanoseconds, 0 for never."""


class StoredPrefix(NamedTuple):
    """A file in the folder; `used_at` is when it was last written or read, in seconds since 1970."""

    name: str
    head: PrefixHead
    size_bytes: int
    used_at: float


class PrefixFolder:
    """`limit_bytes` is for all files together. What cannot be read or written is a miss: only `clear`
    raises `StorageError`."""

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes

    def scan(self, owner: str | None = None) -> list[StoredPrefix]:
        """The prefixes of one owner, or of all; the least recently used first. Damaged files are deleted."""
        found = []
        for modified_ns, size_bytes, name in sorted(self._files()):
            if name.endswith(_TEMPORARY):
                if time.time() - modified_ns / 1e9 > ABANDONED_S:
                    self.remove(name)
            elif owner is None or name.startswith(_owner_part(owner)):
                head = self._head(name, size_bytes)
                if head is not None and (owner is None or head.owner == owner):
                    found.append(StoredPrefix(name, head, size_bytes, modified_ns / 1e9))
        return found

    def read(self, name: str, head: PrefixHead, stopped: Callable[[], bool]) -> bytearray | None:
        """The state of a file that `scan` or `write` has named; None if it is gone or not what it was: then it is
        deleted.
        """
        try:
            with open_regular(self.path / name) as file:
                found = read_head(file, os.fstat(file.fileno()).st_size)
                same = found is not None and (found.owner, found.keys, found.large) == (
                    head.owner,
                    head.keys,
                    head.large,
                )
                state = read_state(file, found, stopped) if same and found is not None else None
            if state is not None:
                os.utime(self.path / name)
        except (OSError, MemoryError):
            return None
        if state is None and not stopped():
            self.remove(name)
        return state

    def write(
        self, head: PrefixHead, state: memoryview, known: ClearedAt, stopped: Callable[[], bool]
    ) -> StoredPrefix | None:
        """Store a state durably, after making room for it; None if that was not possible.

        `known` is what `cleared_at` said when the state was saved: what was cleared since is not written.
        """
        name = f"{_owner_part(head.owner)}{_digest(head.keys, *head.large)}{_SUFFIX}"
        temporary = self.path / f"{name}.{uuid.uuid4().hex}{_TEMPORARY}"
        size_bytes = 0
        try:
            self._make_folder()
            self._make_room(len(state) + len(head.keys))
            try:
                with new_file(temporary, 0o600) as file:
                    for part in file_parts(sealed(head, state), state):
                        if stopped():
                            return None
                        size_bytes += _write_all(file, part)
                    os.fsync(file.fileno())
                if self.cleared_at(head.owner) != known:
                    return None
                os.replace(temporary, self.path / name)
            finally:
                with suppress(FileNotFoundError):
                    temporary.unlink()
            sync_folder(self.path)
            if self.cleared_at(head.owner) != known:
                self.remove(name)
                return None
            self._make_room(0)  # others may have written meanwhile
        except OSError:
            return None
        return StoredPrefix(name, head, size_bytes, time.time())

    def remove(self, name: str) -> None:
        with suppress(OSError):
            (self.path / name).unlink()

    def cleared_at(self, owner: str) -> ClearedAt:
        """Changes when `clear` has been called for all models, or for this one."""
        return self._modified(_CLEARED), self._modified(f"{_CLEARED}-{_weights_part(owner)}")

    def clear(self, weights: str | None = None) -> tuple[int, int]:
        """Delete all prefixes, or those of a model by the digest of its weights: how many files and bytes. Processes
        that have the model loaded forget theirs when they next look at `cleared_at`.
        """
        part = None if weights is None else _weights_part(weights)
        count = freed = 0
        if not self.path.is_dir():
            return 0, 0
        with storage_errors("clearing the prefixes"):
            (self.path / (_CLEARED if part is None else f"{_CLEARED}-{part}")).touch(0o600)
        for _, size_bytes, name in self._files():
            if part is None or name.startswith(part):
                self.remove(name)
                count, freed = count + name.endswith(_SUFFIX), freed + size_bytes
        return count, freed

    def _head(self, name: str, size_bytes: int) -> PrefixHead | None:
        try:
            with open_regular(self.path / name) as file:
                head = read_head(file, size_bytes)
        except OSError:
            return None
        if head is None:
            self.remove(name)
        return head

    def _make_room(self, needed_bytes: int) -> None:
        files = sorted(self._files())
        used = sum(size_bytes for _, size_bytes, _ in files) + needed_bytes
        for _, size_bytes, name in files:
            if used <= self.limit_bytes:
                break
            if name.endswith(_SUFFIX):
                self.remove(name)
                used -= size_bytes

    def _files(self) -> Iterator[tuple[int, int, str]]:
        with suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.endswith((_SUFFIX, _TEMPORARY)):
                    with suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        yield status.st_mtime_ns, status.st_size, entry.name

    def _modified(self, name: str) -> int:
        try:
            return os.stat(self.path / name).st_mtime_ns
        except OSError:
            return 0

    def _make_folder(self) -> None:
        if not self.path.is_dir():
            make_folder(self.path.parent)
            with suppress(FileExistsError):
                self.path.mkdir(0o700)


def _weights_part(owner: str) -> str:
    """Owners begin with the digest of the weights, and file names with a part of it."""
    return owner.removeprefix("sha256:")[:16]


def _owner_part(owner: str) -> str:
    return f"{_weights_part(owner)}-{_digest(owner.encode())}-"


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _write_all(file: BinaryIO, part: bytes | memoryview) -> int:
    rest = memoryview(part)
    while rest:
        rest = rest[file.write(rest) :]
    return len(part)
