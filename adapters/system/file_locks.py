"""Advisory file locks, between the tasks of one process as well as between processes."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from corral.adapters.system.blocking_work import in_thread
from corral.adapters.system.files import make_folder, storage_errors
from corral.core.errors import Conflict

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ("FileLock",)

_TIMEOUT_S = 30.0


class FileLock:
    """One holder's handle on a lock file. The system drops the lock when its process dies.

    Two handles conflict even inside one process, so each holder creates its own. `remove`: the last holder deletes the
    file. Windows has no shared locks; there, every lock is exclusive. `timeout_s` is how long ``async with`` waits for
    another holder; None means forever.
    """

    def __init__(
        self, path: Path, *, exclusive: bool = True, remove: bool = False, timeout_s: float | None = _TIMEOUT_S
    ) -> None:
        self._path = path
        self._exclusive = exclusive
        self._remove = remove
        self._timeout_s = timeout_s
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """False if it is held elsewhere. Raises `StorageError` if the file cannot be created."""
        with storage_errors(f"cannot lock {self._path}"):
            while True:
                try:
                    # Reading is enough to lock, and lets users share a store whose lock files are not theirs.
                    descriptor = os.open(self._path, os.O_RDONLY | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o644)
                except FileNotFoundError:
                    make_folder(self._path.parent)
                    continue
                try:
                    if not _lock(descriptor, exclusive=self._exclusive):
                        return False
                    if self._is_current(descriptor):
                        self._descriptor = descriptor
                        return True
                    # Its last holder removed the file after we opened it and before we locked it.
                finally:
                    if self._descriptor != descriptor:
                        os.close(descriptor)

    def release(self) -> None:
        """Does nothing if it is not held."""
        if self._descriptor is None:
            return
        if self._remove:
            with suppress(OSError):
                self._path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    async def __aenter__(self) -> FileLock:
        """Waits for the lock. Raises `Conflict` after `timeout_s`."""
        began = time.monotonic()
        pause_s = 0.001
        while not await in_thread(lambda _: self.try_acquire(), undo=lambda _: self.release()):
            if self._timeout_s is not None and time.monotonic() > began + self._timeout_s:
                raise Conflict(f"another process has held {self._path} for {self._timeout_s:.0f} s", "try again later")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.05)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False


def _lock(descriptor: int, *, exclusive: bool) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
