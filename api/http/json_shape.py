"""Counts what a JSON text would become, as it arrives and before any of it is made.

A value in JSON can be two bytes long and take a hundred in memory. `JsonShape` finds that out from the punctuation
outside of strings, with searches that run in C over slices of bounded size, so that a body of any size costs the
event loop about a millisecond at a time.
"""

from __future__ import annotations

import re

from corral.api.http.errors import ApiError

__all__ = ("MOST_DEPTH", "JsonShape")

MOST_DEPTH = 128
"""How deep objects and arrays may nest."""

_MOST_VALUES = 262_144
_MOST_CONTAINERS = 32_768
_MOST_ESCAPES = 4 * 1024 * 1024  # text is copied in blocks, what is escaped in it character by character
_SLICE_BYTES = 64 * 1024
_CONTAINER_BYTES = 400  # a dict with a few keys, and the Struct that it becomes
_VALUE_BYTES = 72
_COPIES = 3  # of a text, on its way through a template and a tokenizer

_SPACE = b" \t\r\n"
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_LONG_NUMBER = re.compile(rb"[0-9]{400}")  # beyond any float64; making an int of it takes quadratic time


class JsonShape:
    """What has been seen of one JSON text so far. Texts that are no JSON are counted too, in whatever way comes out.

    `is_complete`: the first value has ended, or it is no object and will be refused; what follows does not matter.
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
        self._string_bytes = 0  # of the string that has not ended
        self._string_width = 1
        self._carried = b""

    @property
    def memory_bytes(self) -> int:
        """What a request with these values takes at most, until it has ended."""
        return self.text_bytes * _COPIES + self.containers * _CONTAINER_BYTES + self._values * _VALUE_BYTES

    def feed(self, chunk: bytes | bytearray) -> None:
        """Count what `chunk` adds. Raises `ApiError` 413 or 400 as soon as a bound is passed."""
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
            if (len(data) - len(data.rstrip(b"\\"))) % 2:  # what it escapes is in the next slice
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
        """The first of `strings` goes on with the one that has not ended; the last may go on in the next slice."""
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
        """Opens and closes what `outside` opens and closes."""
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
