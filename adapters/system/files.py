"""File helpers: errors translated, whole files hashed, small files replaced atomically."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from corral.adapters.system.blocking_work import stop_if_asked
from corral.core.errors import CorralError, OutOfSpace, StorageError
from corral.core.models.digests import Digest
from corral.core.regular_files import open_regular

__all__ = (
    "CHUNK_BYTES",
    "FULL_DISK",
    "copy_file",
    "hash_file",
    "make_folder",
    "new_file",
    "replace_file",
    "storage_errors",
    "sync_folder",
    "write_all",
)

CHUNK_BYTES = 1024 * 1024

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers for a full disk, a used-up quota, and a file at its size limit."""

_NOWHERE = (errno.EROFS, errno.ENOTDIR)


@contextmanager
def storage_errors(subject: str) -> Iterator[None]:
    """Turns an `OSError` into `OutOfSpace` or `StorageError`; the message begins with `subject`."""
    try:
        yield
    except CorralError:
        raise
    except OSError as error:
        text = f"{subject}: {error.strerror or error}"
        if error.errno in FULL_DISK:
            raise OutOfSpace(text, "free some space, or set OLLAMA_MODELS to a folder on another disk") from error
        if error.filename:
            text += f" ({error.filename})"
        if isinstance(error, PermissionError):
            raise StorageError(text, "check who owns the store's folder") from error
        if error.errno in _NOWHERE:
            raise StorageError(text, "set OLLAMA_MODELS to a folder that can be written to") from error
        raise StorageError(text) from error


def hash_file(path: Path, stop: threading.Event) -> Digest:
    """The digest of a file of any size."""
    found = hashlib.sha256()
    with open_regular(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            stop_if_asked(stop)
            found.update(chunk)
    return Digest("sha256:" + found.hexdigest())


def replace_file(path: Path, data: bytes, scratch: Path, *, durable: bool = True, mode: int = 0o644) -> None:
    """Makes `data` the content of `path` in one step; its folder must exist. `scratch` is on the same disk.

    `durable`: return only once the file would survive a power cut. `mode` is less the umask.
    """
    make_folder(scratch)
    temporary = scratch / f"{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        with new_file(temporary, mode) as file:
            write_all(file, data)
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    if durable:
        sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Creates a folder and those above it, as far as they are missing: with mode 0755 less the umask, where
    `Path.mkdir` would give the ones above 0777."""
    try:
        path.mkdir(mode=0o755)
    except FileExistsError:
        if not path.is_dir():
            raise
    except FileNotFoundError:
        make_folder(path.parent)
        path.mkdir(mode=0o755, exist_ok=True)


def new_file(path: Path, mode: int = 0o644) -> BinaryIO:
    """Creates a file to write to, unbuffered: with this mode less the umask. Raises `FileExistsError`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return open(os.open(path, flags, mode), "r+b", buffering=0)


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Writes all of `data` to an unbuffered file, which may take only a part at a time, as on a disk that is full."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def copy_file(source: str | os.PathLike[str], target: Path, stop: threading.Event) -> os.stat_result:
    """Copies a regular file of any size to a new one, which is on the disk then. Returns the status of the source.

    Raises `OSError`, also if the source changes meanwhile, and leaves an incomplete `target` then.
    """
    with open_regular(source) as original, new_file(target) as copy:
        before = os.fstat(original.fileno())
        while chunk := original.read(CHUNK_BYTES):
            stop_if_asked(stop)
            write_all(copy, chunk)
        os.fsync(copy.fileno())
        after = os.fstat(original.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise OSError(errno.EBUSY, "it changed while it was being copied", os.fspath(source))
    return after


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut, on systems that can open folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
