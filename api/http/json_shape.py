"""Estimates the memory that the values of a JSON text would use, while it arrives and before anything is decoded.

A JSON value of two bytes can use a hundred in memory. `JsonShape` counts the punctuation outside of strings, with
searches in C over slices of limited size, so that a body of any size takes the event loop about a millisecond at a
time.
"""

from __future__ import annotations

import re

from corral.api.http.errors import ApiError

__all__ = ("MOST_DEPTH", "JsonShape")

MOST_DEPTH = 128
"""How deep objects and arrays may nest."""

_MOST_VALUES = 262_144
_MOST_CONTAINERS = 32_768
_MOST_ESCAPES = 4 * 1024 * 1024  # text is copied in blocks, escapes one character at a time
_SLICE_BYTES = 64 * 1024
_CONTAINER_BYTES = 400  # a dict with a few keys, and the Struct made from it
_VALUE_BYTES = 72
_COPIES = 3  # copies of a text in a template and a tokenizer

_SPACE = b" \t\r\n"
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_LONG_NUMBER = re.compile(rb"[0-9]{400}")  # longer than any float64; converting it to an int takes quadratic time


class JsonShape:
    """The counts of one JSON text so far. Invalid JSON is counted too, with arbitrary results.

    `is_complete` means that the first value has ended, or is not an object and will be rejected, so that what follows
    does not matter.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self.containers = 0
        """Objects and arrays."""
        self.text_bytes = 0
        """What the strings take at most once they are decoded: a character beyond Latin-1 widens its whole string."""
        self._values = 0
        self._escapes = 0
        self._depth = 0
        self._in_string = False
        self._string_bytes = 0  # of the unfinished string
        self._string_width = 1
        self._carried = b""

    @property
    def memory_bytes(self) -> int:
        """The most memory that a request with these values uses until it has ended."""
        return self.text_bytes * _COPIES + self.containers * _CONTAINER_BYTES + self._values * _VALUE_BYTES

    def feed(self, chunk: bytes | bytearray) -> None:
        """Counts a chunk. Raises `ApiError` 413 or 400 as soon as a limit is exceeded."""
        for at in range(0, len(chunk), _SLICE_BYTES):
            if self.is_complete:
                return
            self._count(self._carried + chunk[at : at + _SLICE_BYTES])

    def _count(self, data: bytes) -> None:
        self._carried = b""
        if not self.containers:
            data = data.lstrip(_SPACE)
            if not data:
                return
            if not data.startswith(b"{"):
                self.is_complete = True
                return
        is_ascii, has_codes = data.isascii(), False
        if b"\\" in data:
            self._escapes += data.count(b"\\")
            if (len(data) - len(data.rstrip(b"\\"))) % 2:  # the escaped character is in the next slice
                data, self._carried = data[:-1], b"\\"
            data = data.replace(b"\\\\", b"..").replace(b'\\"', b"..")
            has_codes = b"\\u" in data
        parts = data.split(b'"')
        self._count_strings(parts[not self._in_string :: 2], is_narrow=is_ascii and not has_codes)
        outside = b" ".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        if not self._in_string:
            self._end_string()
        self.containers += outside.count(b"[") + outside.count(b"{")
        self._values += outside.count(b",") + outside.count(b":")
        self._follow(outside)
        if self.containers > _MOST_CONTAINERS:
            raise ApiError(413, f"the request has more than {_MOST_CONTAINERS} JSON objects and arrays")
        if self._values > _MOST_VALUES:
            raise ApiError(413, f"the request has more than {_MOST_VALUES} JSON values")
        if self._escapes > _MOST_ESCAPES:
            raise ApiError(413, f"the request has more than {_MOST_ESCAPES} escapes in its JSON strings")
        if _LONG_NUMBER.search(outside):
            raise ApiError(400, "json: cannot unmarshal number into Go value of type float64")

    def _count_strings(self, strings: list[bytes], *, is_narrow: bool) -> None:
        """The first of `strings` continues the unfinished one; the last may continue in the next slice."""
        for number, string in enumerate(strings):
            if number or not self._in_string:
                self._end_string()
            self._string_bytes += len(string)
            if not is_narrow and self._string_width < 4:
                self._string_width = max(self._string_width, _width(string))

    def _end_string(self) -> None:
        self.text_bytes += self._string_bytes * self._string_width
        self._string_bytes, self._string_width = 0, 1

    def _follow(self, outside: bytes) -> None:
        """Counts the brackets in `outside`."""
        for bracket in outside.translate(None, _NOT_BRACKETS):
            if bracket in b"[{":
                self._depth += 1
                if self._depth > MOST_DEPTH:
                    raise ApiError(400, "exceeded max depth")
            else:
                self._depth -= 1
                if self._depth <= 0:
                    self.is_complete = True
                    return


def _width(string: bytes) -> int:
    """Bytes per character, at most."""
    if b"\\u" in string or any(lead in string for lead in (b"\xf0", b"\xf1", b"\xf2", b"\xf3", b"\xf4")):
        return 4
    return 1 if string.isascii() else 2
