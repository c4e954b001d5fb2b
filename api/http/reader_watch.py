"""Detects clients that stop reading their response, or that leave while nothing is read from them."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable

__all__ = ("ReaderWatch", "has_left")

_STALLED_S = 1.0


def has_left(transport: asyncio.Transport) -> bool:
    """Whether the client has closed its side. The event loop does not report that while reading is paused."""
    closed = getattr(select, "POLLRDHUP", 0)
    sock = transport.get_extra_info("socket")
    if not closed or sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), closed)
    return bool(poll.poll(0))


class ReaderWatch:
    """Measures for how long the client has read nothing while bytes wait to be sent."""

    def __init__(self) -> None:
        self.on_stalled: Callable[[], None] | None = None
        """Called at each check while the client has read nothing for at least a second."""
        self._unsent_bytes = 0
        self._unread_since_s = time.monotonic()

    def unread_s(self, unsent_bytes: int, now_s: float) -> float:
        """For how long none of the unsent bytes have been read; 0 if some have since the last check."""
        if not unsent_bytes:
            self._unsent_bytes = 0
            return 0.0
        if not self._unsent_bytes or unsent_bytes < self._unsent_bytes:
            self._unread_since_s = now_s
        self._unsent_bytes = unsent_bytes
        unread_s = now_s - self._unread_since_s
        if unread_s >= _STALLED_S and self.on_stalled is not None:
            self.on_stalled()
        return unread_s
