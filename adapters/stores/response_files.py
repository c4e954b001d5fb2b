"""Responses in a folder that only its owner can read: a file each, whose time of modification is its last use."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from corral.adapters.system.blocking_work import in_thread
from corral.adapters.system.files import make_folder, replace_file, storage_errors
from corral.core.malformed import MALFORMED
from corral.core.ports.responses import KeptResponse
from corral.core.regular_files import read_regular

__all__ = ("ResponseFiles",)

_log = logging.getLogger(__name__)

_HEAD = b"corral response 1\n"
_SUM_BYTES = 32
_EXTRA_BYTES = 4096  # what a file has besides reply and items
_NAME = re.compile(r"[0-9a-f]{64}")
_ABANDONED_S = 3600.0
"""A file that was being written for so long belongs to a process that has died."""
_MOST_UNSEEN = 64
"""Other processes may add responses too, so the folder is looked at after this many of our own at the latest."""
_SLACK = 16
"""Once it is full, a sixteenth is freed, so that not every response makes it look at all others."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(KeptResponse).decode


class ResponseFiles:
    """A `ResponseStore` that survives a restart. Several processes may share the folder.

    `ttl_s` is the time since the last use; `clock_s` tells the time in seconds since 1970. A file begins with the
    SHA-256 of its content: one that is damaged does not exist. Its name is a hash, so no id leads out of the folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_count: int,
        max_bytes: int,
        ttl_s: float,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._room_count = self._room_bytes = 0
        """What may be added before the folder has to be looked at."""

    async def put(self, response: KeptResponse) -> bool:
        return await in_thread(lambda _: self._put(response))

    async def get(self, owner: str, id: str) -> KeptResponse | None:
        return await in_thread(lambda _: self._get(owner, id))

    async def delete(self, owner: str, id: str) -> bool:
        def work(_: threading.Event) -> bool:
            if self._get(owner, id) is None:
                return False
            with storage_errors("cannot delete a response"):
                return _removed(self._path(owner, id))

        return await in_thread(work)

    def _path(self, owner: str, id: str) -> Path:
        named = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in (owner, id)]
        return self._folder / hashlib.sha256(b"".join(named)).hexdigest()

    def _put(self, response: KeptResponse) -> bool:
        path = self._path(response.owner, response.id)
        if response.size_bytes > self._max_bytes or not self._max_count:
            with storage_errors("cannot delete a response"):
                _removed(path)
            return False
        content = _encode(response)
        data = b"".join((_HEAD, hashlib.sha256(content).digest(), content))
        now_s = self._clock_s()
        with self._lock, storage_errors("cannot keep a response"):
            self._make_folder()
            replace_file(path, data, self._folder, mode=0o600)
            os.utime(path, (now_s, now_s))
            self._room_count -= 1
            self._room_bytes -= len(data)
            if self._room_count < 0 or self._room_bytes < 0:
                self._make_room(path.name, now_s)
        return True

    def _get(self, owner: str, id: str) -> KeptResponse | None:
        path, now_s = self._path(owner, id), self._clock_s()
        try:
            if path.stat().st_mtime < now_s - self._ttl_s:
                _removed(path)
                return None
            response = _checked(read_regular(path, self._max_bytes + _EXTRA_BYTES))
            if response is None or (response.owner, response.id) != (owner, id):
                _log.warning("%s is damaged: the response in it is lost", path)
                _removed(path)
                return None
        except FileNotFoundError:
            return None
        except OSError as fault:
            _log.warning("cannot read a response: %s", fault)
            return None
        with suppress(OSError):  # another user's folder, or it has just been deleted
            os.utime(path, (now_s, now_s))
        return response

    def _make_folder(self) -> None:
        make_folder(self._folder.parent)
        with suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)

    def _make_room(self, newest: str, now_s: float) -> None:
        """Deletes what has expired, and if the rest is too much, what was used least recently, but not the newest."""
        found: list[tuple[bool, float, int, str]] = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    whole, used_at = _NAME.fullmatch(entry.name), status.st_mtime
                    if whole and used_at >= now_s - self._ttl_s:
                        found.append((entry.name == newest, used_at, status.st_size, entry.name))
                    elif whole or (_NAME.match(entry.name) and used_at < now_s - _ABANDONED_S):
                        os.unlink(entry.path)
        found.sort()
        count, size_bytes = len(found), sum(size for _, _, size, _ in found)
        if count > self._max_count or size_bytes > self._max_bytes:
            wanted_count, wanted_bytes = (most - most // _SLACK for most in (self._max_count, self._max_bytes))
            for _, _, own_bytes, name in found[:-1]:
                if count <= wanted_count and size_bytes <= wanted_bytes:
                    break
                _removed(self._folder / name)
                count, size_bytes = count - 1, size_bytes - own_bytes
        self._room_count = min(_MOST_UNSEEN, self._max_count - count)
        self._room_bytes = self._max_bytes - size_bytes


def _removed(path: Path) -> bool:
    """Deletes a file. False if there was none. Raises `OSError`."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _checked(data: bytes) -> KeptResponse | None:
    """What a file contains. None if that is not what was written."""
    start = len(_HEAD) + _SUM_BYTES
    content = data[start:]
    if data[: len(_HEAD)] != _HEAD or data[len(_HEAD) : start] != hashlib.sha256(content).digest():
        return None
    try:
        return _decode(content)
    except MALFORMED:
        return None
