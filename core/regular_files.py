"""Opens files without trusting their paths: anything but a regular file is refused without blocking."""

from __future__ import annotations

import errno
import io
import os
import stat

__all__ = ("open_regular", "read_regular")


def open_regular(path: str | os.PathLike[str]) -> io.FileIO:
    """The file for reading, unbuffered; the caller closes it. Blocking, but never waits for another process.

    Raises `OSError`: `IsADirectoryError` for a folder, ``EINVAL`` for a pipe, a socket or a device. Opening a pipe that
    has no writer would otherwise block its thread forever.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:  # opening a socket fails with this
            raise _not_regular(path) from error
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(mode):
            raise _not_regular(path)
        return io.FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], limit_bytes: int) -> bytes:
    """The content of a small file. Raises as `open_regular`, and ``EFBIG`` if it has more than `limit_bytes`."""
    with open_regular(path) as file:
        data = file.read(limit_bytes + 1)
        while data and len(data) <= limit_bytes and (more := file.read(limit_bytes + 1 - len(data))):
            data += more
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, f"larger than {limit_bytes} bytes", os.fspath(path))
    return data


def _not_regular(path: str | os.PathLike[str]) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", os.fspath(path))
