"""Files that are read by ranges, local or remote: the protocol, and its implementation for local files."""

from __future__ import annotations

import io
import os
from typing import Protocol

from corral.core.errors import InvalidModelFile
from corral.core.regular_files import open_regular

__all__ = ("RandomAccess", "RandomAccessFile", "buffered")

_BUFFER_BYTES = 64 * 1024


class RandomAccess(Protocol):
    """A file that is read by ranges: a local one, or a blob in a store. For one thread at a time."""

    @property
    def name(self) -> str:
        """Its name in error messages: a path or a digest."""
        ...

    @property
    def size_bytes(self) -> int: ...

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The bytes from `offset_bytes` on; fewer than `length_bytes` only if the file ends. Blocking.

        Raises a `CorralError` that names the file if it cannot be read.
        """
        ...


class RandomAccessFile:
    """A regular local file, used with ``with``.

    Reads instead of mapping: if a mapped file is truncated, the process dies. Everything raises `InvalidModelFile` with
    the file's name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        try:
            self._file = open_regular(path)
            self.size_bytes = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise InvalidModelFile(f"{self.name}: {error.strerror or error}") from error

    def __enter__(self) -> RandomAccessFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        try:
            self._file.seek(offset_bytes)
            data = self._file.read(length_bytes) or b""
            while len(data) < length_bytes and (more := self._file.read(length_bytes - len(data))):
                data += more
        except OSError as error:
            raise InvalidModelFile(f"{self.name}: {error.strerror or error}") from error
        return data


def buffered(source: RandomAccess) -> io.BufferedReader:
    """A file object that reads from `source`, for code that expects one."""
    return io.BufferedReader(_Raw(source), _BUFFER_BYTES)


class _Raw(io.RawIOBase):
    def __init__(self, source: RandomAccess) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._source.size_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed has no name for its type
        data = self._source.read(self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
