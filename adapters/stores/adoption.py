"""Adds files to a store without copying them, if the file system supports that, and detects later changes to them."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import msgspec

from corral.adapters.system.files import copy_file, make_folder, new_file, replace_file
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest
from corral.core.regular_files import open_regular, read_regular

__all__ = ("AdoptionNotes", "Fingerprint", "bring", "fingerprint_of")

_NOTE_LIMIT_BYTES = 64 * 1024

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)


class Fingerprint(msgspec.Struct, frozen=True):
    """What changes when a file is edited: enough to know when to hash it again."""

    size_bytes: int
    mtime_ns: int
    inode: int


class _Note(msgspec.Struct, frozen=True):
    fingerprint: Fingerprint
    intact: bool


def fingerprint_of(status: os.stat_result) -> Fingerprint:
    return Fingerprint(status.st_size, status.st_mtime_ns, status.st_ino)


def bring(source: Path, target: Path, stop: threading.Event) -> bool:
    """Makes `target` a reflink of `source`, else a hard link, else a copy. True for a hard link: the two share bytes.

    Blocking. `target` must not exist. If this raises, an incomplete `target` may be left behind.
    """
    if _reflinked(source, target):
        return False
    with suppress(OSError):  # another device, no links on this file system, too many links, another user's file
        os.link(source, target)
        return True
    copy_file(source, target, stop)
    return False


def _reflinked(source: Path, target: Path) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    with open_regular(source) as original, new_file(target) as copy:
        try:
            fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
        except OSError:
            target.unlink()
            return False
        os.fsync(copy.fileno())
        return True


class AdoptionNotes:
    """One note per hard-linked blob: its fingerprint when it was last hashed, and the result. All calls block."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._folder = folder
        self._scratch = scratch

    def verdict(self, digest: Digest, status: os.stat_result) -> bool | None:
        """Whether the blob is intact; None if only hashing can tell. A blob without a note is not a hard link."""
        try:
            note = msgspec.json.decode(read_regular(self._path(digest), _NOTE_LIMIT_BYTES), type=_Note)
        except FileNotFoundError:
            return True
        except (OSError, *MALFORMED):
            return None
        return note.intact if note.fingerprint == fingerprint_of(status) else None

    def put(self, digest: Digest, fingerprint: Fingerprint, *, intact: bool) -> None:
        make_folder(self._folder)
        note = msgspec.json.encode(_Note(fingerprint, intact))
        replace_file(self._path(digest), note, self._scratch)

    def noted_at(self, digest: Digest) -> float | None:
        """When the blob was linked or hashed last, in seconds since 1970; None without a note. The file's own time is
        that of the file it was linked from."""
        try:
            return self._path(digest).stat().st_mtime
        except OSError:
            return None

    def renew(self, digest: Digest) -> bool:
        """Sets the time of the note to now. False if there is none."""
        try:
            os.utime(self._path(digest))
        except OSError:
            return False
        return True

    def remove(self, digest: Digest) -> None:
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: Digest) -> Path:
        return self._folder / f"{digest.partition(':')[2]}.json"
