"""The events of a stream, in order: each has its type and the next sequence number."""

from __future__ import annotations

from typing import Any

import msgspec

from corral.api.http.sse import event

__all__ = ("ResponseEvents",)

_encode = msgspec.json.Encoder().encode


class ResponseEvents:
    """Collects the events of one response until they are taken. Without a stream, it collects nothing."""

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream
        self._number = 0
        self._written: list[bytes] = []
        self._before_text = b""

    def add(self, kind: str, /, **fields: Any) -> None:
        if self._stream:
            told = {"type": kind, "sequence_number": self._number, **fields}
            self._number += 1
            self._written.append(event(_encode(told), kind.encode()))

    def begin_texts(self, kind: str, /, **fields: Any) -> None:
        """Prepares `add_text`: nearly all events are texts, and differ in their text and number only."""
        if self._stream:
            head = _encode({"type": kind, **fields})
            self._before_text = b"event: %s\ndata: %s" % (kind.encode(), head[:-1] + b',"delta":')

    def add_text(self, text: str) -> None:
        """One event of the kind that `begin_texts` has named, with this `delta`."""
        if self._stream:
            numbered = b'%s%s,"sequence_number":%d}\n\n' % (self._before_text, _encode(text), self._number)
            self._number += 1
            self._written.append(numbered)

    def take(self) -> list[bytes]:
        """The events since they were last taken."""
        taken, self._written = self._written, []
        return taken
