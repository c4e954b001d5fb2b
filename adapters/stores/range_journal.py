"""The journal of a partial blob: a line for each written range, and what another process resumes from it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from corral.adapters.stores.ranges import Range, merged
from corral.adapters.system.files import replace_file
from corral.core.malformed import MALFORMED
from corral.core.regular_files import read_regular

__all__ = ("RangeJournal", "resumable")

_LIMIT_BYTES = 1024 * 1024
_LINES_UNTIL_REWRITTEN = 4096  # some 100 kB; a blob of 100 GB arrives in 100,000 pieces

_HEAD = msgspec.json.Decoder(tuple[int | None])
_RANGE = msgspec.json.Decoder(tuple[int, int])


class RangeJournal:
    """A file of lines: ``[size of the blob or null]``, then ``[start,end]`` for each range. For one writer.

    A line is appended in one call after its bytes were, so a crash loses at most the range that was being written.
    Nothing is forced to the disk: after a power cut the digest decides. All calls block and raise `OSError`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._lines = 0

    def read(self) -> tuple[int | None, list[Range]] | None:
        """The size of the blob and its ranges; None if there is no journal, or none that can be trusted."""
        try:
            data = read_regular(self._path, _LIMIT_BYTES)
            head, *lines = data[: data.rfind(b"\n") + 1].splitlines()  # a last line without its end was cut off
            size_bytes, ranges = _HEAD.decode(head)[0], [_RANGE.decode(line) for line in lines]
        except (OSError, ValueError, *MALFORMED):
            return None
        return (size_bytes, merged(ranges)) if all(0 <= start < end for start, end in ranges) else None

    def start(self, size_bytes: int | None, ranges: Sequence[Range]) -> None:
        """Replaces what was there, and keeps the file open to append to."""
        self.close()
        lines = [msgspec.json.encode(line) for line in ((size_bytes,), *ranges)]
        replace_file(self._path, b"\n".join(lines) + b"\n", self._path.parent, durable=False)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
        self._lines = 0

    def add(self, written: Range, size_bytes: int | None, ranges: Sequence[Range]) -> None:
        """Notes the range `written`; `ranges` is everything that is there now, the new range included."""
        self._lines += 1
        if self._lines > _LINES_UNTIL_REWRITTEN:
            self.start(size_bytes, ranges)
            return
        line = msgspec.json.encode(written) + b"\n"
        if os.write(self._file, line) < len(line):
            self._lines = _LINES_UNTIL_REWRITTEN  # nothing may follow half a line
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(self._path))

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def remove(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)


def resumable(path: Path, journal: RangeJournal | None, size_bytes: int | None) -> tuple[int | None, list[Range]]:
    """Size and ranges that an earlier writer left, if it announced the same size and the file is long enough."""
    found = journal.read() if journal is not None else None
    if found is None:
        return size_bytes, []
    known_bytes, ranges = found
    end = ranges[-1][1] if ranges else 0
    try:
        long_enough = not ranges or path.stat().st_size >= end
    except OSError:
        return size_bytes, []
    if not long_enough or (size_bytes is not None and known_bytes not in (None, size_bytes)):
        return size_bytes, []
    size_bytes = known_bytes if size_bytes is None else size_bytes
    return size_bytes, ranges if size_bytes is None or end <= size_bytes else []
