"""Temporary folders, which are deleted when their owner has finished or died."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from corral.adapters.system.blocking_work import in_thread
from corral.adapters.system.file_locks import FileLock
from corral.adapters.system.files import storage_errors
from corral.core.errors import Conflict

__all__ = ("workspace",)


@asynccontextmanager
async def workspace(parent: Path) -> AsyncIterator[Path]:
    """An empty folder in `parent`, for as long as the context lasts. Deletes what dead processes left there first."""

    def make(_: threading.Event) -> tuple[Path, FileLock]:
        with storage_errors(f"cannot create a folder in {parent}"):
            _sweep(parent)
            folder = parent / uuid.uuid4().hex
            lock = FileLock(folder.with_suffix(".lock"), remove=True)
            if not lock.try_acquire():
                raise Conflict(f"{folder} is held by another process")
            try:
                folder.mkdir(mode=0o755)
            except BaseException:
                lock.release()
                raise
            return folder, lock

    def clear(made: tuple[Path, FileLock]) -> None:
        folder, lock = made
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()

    made = await in_thread(make, undo=clear)
    try:
        yield made[0]
    finally:
        await in_thread(lambda _: clear(made))


def _sweep(parent: Path) -> None:
    # An owner takes the lock before it creates the folder, so no live folder is deleted.
    with suppress(FileNotFoundError):
        for folder in [path for path in parent.iterdir() if path.is_dir()]:
            lock = FileLock(folder.with_suffix(".lock"), remove=True)
            if lock.try_acquire():
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()
