"""Folders that present blobs under the file names that a model expects, without a second copy on disk."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from corral.adapters.system.blocking_work import in_thread
from corral.adapters.system.file_locks import FileLock
from corral.adapters.system.files import copy_file, make_folder, replace_file, storage_errors
from corral.core.malformed import MALFORMED
from corral.core.models.digests import Digest, parse_digest
from corral.core.models.paths import check_together, path_parts
from corral.core.regular_files import read_regular

__all__ = ("ModelFolders",)

_NOTE_LIMIT_BYTES = 16 * 1024 * 1024
_ABANDONED_AFTER_S = 24 * 3600.0


class ModelFolders:
    """``<folder>/<hex of the key>/…``, with a note of its blobs beside it. Safe for concurrent tasks and processes.

    All files of a folder are links of one kind: onnxruntime refuses external data that is a link out of the model's
    folder, unless the model itself is such a link. `scratch` is on the same disk as `folder`.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._folder = folder
        self._scratch = scratch

    async def show(self, key: Digest, blobs: Mapping[str, Path]) -> Path:
        """The folder that has `blobs` under these paths; created if it is missing or incomplete.

        Raises `StorageError` for paths that cannot be in one folder.
        """
        check_together(blobs)
        target = self._path(key)
        if not await in_thread(lambda _: _is_whole(target, blobs)):
            async with self._lock(key):
                await in_thread(lambda stop: self._make(target, blobs, stop))
        return target

    async def drop(self, key: Digest) -> None:
        """Does nothing if there is none."""
        async with self._lock(key):
            await in_thread(lambda _: self._remove(self._path(key)))

    def _make(self, target: Path, blobs: Mapping[str, Path], stop: threading.Event) -> None:
        if _is_whole(target, blobs):
            return
        with storage_errors(f"cannot create the folder {target}"):
            self._sweep()
            fresh = self._aside()
            try:
                _fill(fresh, blobs, stop)
                note = msgspec.json.encode(sorted(str(blob) for blob in blobs.values()))
                replace_file(_note(target), note, self._scratch, durable=False)
                self._put_aside(target)
                os.rename(fresh, target)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)

    def _remove(self, target: Path) -> None:
        with storage_errors(f"cannot delete the folder {target}"):
            self._put_aside(target)
            _note(target).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Drops folders whose blobs another program (Ollama) has deleted: the links would keep the space in use.

        Also drops what was started long ago and never finished.
        """
        for note in self._folder.glob("*.json"):
            with suppress(OSError, *MALFORMED):
                blobs = msgspec.json.decode(read_regular(note, _NOTE_LIMIT_BYTES), type=list[str])
                if all(os.path.exists(blob) for blob in blobs):
                    continue
            lock = FileLock(note.with_suffix(".lock"), remove=True)
            if lock.try_acquire():
                with suppress(OSError):
                    self._remove(note.with_suffix(""))
                lock.release()

        with suppress(FileNotFoundError):
            for left in self._scratch.iterdir():
                with suppress(OSError):
                    if left.stat().st_mtime < time.time() - _ABANDONED_AFTER_S:  # by a process that has died since
                        shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _put_aside(self, folder: Path) -> None:
        """In one step, so that nobody sees half a folder. Files that are open stay readable."""
        old = self._aside()
        with suppress(FileNotFoundError):
            os.rename(folder, old)
            shutil.rmtree(old)

    def _aside(self) -> Path:
        make_folder(self._scratch)
        return self._scratch / f"folder-{uuid.uuid4().hex}"

    def _lock(self, key: Digest) -> FileLock:
        return FileLock(self._path(key).with_suffix(".lock"), remove=True, timeout_s=None)

    def _path(self, key: Digest) -> Path:
        return self._folder / parse_digest(key).partition(":")[2]


def _note(folder: Path) -> Path:
    return folder.with_suffix(".json")


def _is_whole(folder: Path, blobs: Mapping[str, Path]) -> bool:
    return folder.is_dir() and all(_shows(folder.joinpath(*path_parts(path)), blob) for path, blob in blobs.items())


def _shows(shown: Path, blob: Path) -> bool:
    try:
        one, other = shown.stat(), blob.stat()
    except OSError:
        return False
    copied = (one.st_nlink, one.st_size, one.st_mtime_ns) == (1, other.st_size, other.st_mtime_ns)
    return copied or os.path.samestat(one, other)


def _fill(folder: Path, blobs: Mapping[str, Path], stop: threading.Event) -> None:
    ways: tuple[Callable[[str, Path], None], ...] = (os.link, os.symlink, partial(_copy, stop=stop))
    for way in ways:
        try:
            folder.mkdir(mode=0o755)
            for path, blob in blobs.items():
                target = folder.joinpath(*path_parts(path))
                make_folder(target.parent)
                way(os.path.realpath(blob), target)  # a hard link to a symbolic link would be another symbolic link
        except OSError:
            if way is ways[-1]:
                raise
            shutil.rmtree(folder)
        else:
            return


def _copy(blob: str, target: Path, *, stop: threading.Event) -> None:
    status = copy_file(blob, target, stop)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))  # `_shows` recognises it by this
