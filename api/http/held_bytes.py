"""Received bytes of a connection that are not parsed yet, given out in pieces that are safe to parse."""

from __future__ import annotations

__all__ = ("END_OF_HEAD", "HELD_BYTES", "TURN_BYTES", "HeldBytes")

END_OF_HEAD = b"\r\n\r\n"
HELD_BYTES = 64 * 1024
"""Reading pauses once more than this is held."""
TURN_BYTES = 16 * 1024
"""About how much of one connection is parsed before others get a turn."""

_FREELY_FED_BYTES = 4096


class HeldBytes:
    """A piece ends at the end of a head or of a message, so that no request is parsed before the previous one has been
    answered."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._searched = 0
        self._tail = b""

    def __len__(self) -> int:
        return len(self._held)

    def add(self, data: bytes) -> None:
        self._held += data

    def clear(self) -> None:
        self._held.clear()

    def take(self, length: int) -> bytes:
        """Removes the first bytes, to be parsed."""
        with memoryview(self._held) as held:
            piece = bytes(held[:length])
        del self._held[:length]
        self._searched = 0
        return piece

    def parsed(self, piece: bytes) -> None:
        """Remembers the last bytes of a parsed piece, because the end of a head may span two pieces."""
        self._tail = b"" if piece.endswith(END_OF_HEAD) else (self._tail + piece[-3:])[-3:]

    def message_ended(self) -> None:
        self._tail = b""

    def next_length(self, overhead_bytes: int, *, in_head: bool) -> int:
        """How many bytes may be parsed next: at most up to the end of a head. 0 means that more must arrive first.

        `overhead_bytes` is how much of this head, or of the framing of these chunks, has been parsed already.
        """
        held = self._held
        if self._tail:
            near = (self._tail + held[:3]).find(END_OF_HEAD)
            if near >= 0:
                return near + len(END_OF_HEAD) - len(self._tail)
        # Of chunks, only a turn's worth is given out, and what follows is searched then.
        limit = len(held) if in_head else min(len(held), TURN_BYTES + len(END_OF_HEAD) - 1)
        end = held.find(END_OF_HEAD, max(0, self._searched - 3), limit)
        if end >= 0:
            return end + len(END_OF_HEAD)
        self._searched = limit
        # The parser copies a long header again with each part, so it gets the beginning and then the rest in one piece.
        if in_head:
            return min(len(held), max(0, _FREELY_FED_BYTES - overhead_bytes))
        if overhead_bytes > _FREELY_FED_BYTES and len(held) < min(overhead_bytes // 8, HELD_BYTES // 2):
            return 0
        return min(len(held), TURN_BYTES)
