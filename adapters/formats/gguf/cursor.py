"""Reads GGUF's numbers and strings in sequence through a window, and never past the end of the file."""

from __future__ import annotations

import struct

from corral.core.errors import InvalidModelFile
from corral.core.random_access import RandomAccess

__all__ = ("Cursor",)

_WINDOW_BYTES = 1024 * 1024

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Cursor:
    """A position in a file. Everything raises `InvalidModelFile` with the file's name, the offset and the fault."""

    def __init__(self, source: RandomAccess) -> None:
        self.name = source.name
        self.size_bytes = source.size_bytes
        self._source = source
        self._base = 0
        self._window = b""
        self._position = 0  # in the window; may lie beyond its end after a skip

    def string(self, limit_bytes: int, what: str) -> str:
        """A length followed by UTF-8 text; `what` names it in errors."""
        length = self.u64()
        if length > self.size_bytes - self.offset_bytes:
            raise self.error(f"{what} claims to be {length} bytes long, past the file's end: it is truncated")
        if length > limit_bytes:
            raise self.error(f"{what} claims to be {length} bytes long; at most {limit_bytes} are allowed")
        return self.take(length).decode("utf-8", "replace")

    def skip_strings(self, count: int) -> None:
        # A tight loop over local variables: vocabularies have hundreds of thousands of entries.
        window, position, length_at = self._window, self._position, _U64.unpack_from
        last = len(window) - 8
        for _ in range(count):
            if position > last:
                self._position = position
                self._fill(8)
                window, position = self._window, self._position
                last = len(window) - 8
            position += 8 + length_at(window, position)[0]
        self._position = position
        self._fill(0)

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def take(self, size_bytes: int) -> bytes:
        """The next bytes; the caller limits their number."""
        self._fill(size_bytes)
        start = self._position
        self._position += size_bytes
        return self._window[start : self._position]

    def skip(self, size_bytes: int) -> None:
        self._position += size_bytes
        self._fill(0)

    def seek(self, offset_bytes: int) -> None:
        """Moves to an offset, which is checked when something is read there."""
        self._position = offset_bytes - self._base
        if self._position < 0:
            self._base, self._window, self._position = offset_bytes, b"", 0

    def _fill(self, size_bytes: int) -> None:
        """Loads the next bytes into the window."""
        if self.offset_bytes + size_bytes > self.size_bytes:
            raise self.error(f"the file ends here, at {self.size_bytes} bytes: it is truncated")
        if self._position + size_bytes <= len(self._window):
            return
        offset = self.offset_bytes
        wanted = max(size_bytes, min(_WINDOW_BYTES, self.size_bytes - offset))
        self._base, self._window, self._position = offset, self._source.read(offset, wanted), 0
        if len(self._window) < size_bytes:
            raise self.error("the file got shorter while it was being read")

    @property
    def offset_bytes(self) -> int:
        return self._base + self._position

    def error(self, text: str, remedy: str | None = None) -> InvalidModelFile:
        """An error about this position."""
        return InvalidModelFile(
            f"{self.name}: at byte {self.offset_bytes}: {text}", remedy or "fetch or convert the file again"
        )
