"""The sending side of a child: each frame is sent by the thread that created it, and queued if the socket is full."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from corral.adapters.runners.frames import Log, Step, encode
from corral.adapters.runners.outbox import Outbox
from corral.core.stepping.loops import Outcome

__all__ = ("Uplink",)

_MOST_LOGS = 1000


class Uplink:
    """Sends frames over a non-blocking socket. Thread-safe; never blocks.

    `wake` is called when frames begin to queue. From then on, `flush` must be called whenever the socket is writable,
    until `pending` is False.
    """

    def __init__(self, sock: socket.socket, wake: Callable[[], None]) -> None:
        self._sock = sock
        self._wake = wake
        self._lock = threading.Lock()
        self._unsent = memoryview(b"")
        self._outbox = Outbox()
        self._control: deque[bytes] = deque()
        self._logs: deque[bytes] = deque(maxlen=_MOST_LOGS)

    @property
    def pending(self) -> bool:
        return bool(self._unsent or self._outbox or self._control or self._logs)

    def send_step(self, outcomes: list[Outcome]) -> None:
        """Send the outcomes of one step. While the socket is full, the deltas of later steps are merged with them."""
        with self._lock:
            if self.pending:
                self._outbox.add(outcomes)
            else:
                self._send(encode(Step(outcomes)))

    def send(self, frame: Any) -> None:
        """Send any other frame. If a thousand log lines are queued, the next one replaces the oldest."""
        data = encode(frame)
        with self._lock:
            if self.pending:
                (self._logs if isinstance(frame, Log) else self._control).append(data)
            else:
                self._send(data)

    def flush(self) -> None:
        """Send as much as the socket accepts now."""
        with self._lock:
            while True:
                if self._unsent:
                    self._send(self._unsent)
                    if self._unsent:
                        return
                elif self._outbox:  # before a `Fatal`, which may be the last frame
                    self._unsent = memoryview(encode(Step(self._outbox.take())))
                elif self._control:
                    self._unsent = memoryview(self._control.popleft())
                elif self._logs:
                    self._unsent = memoryview(self._logs.popleft())
                else:
                    return

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            os._exit(0)  # the parent is gone
        had_unsent = bool(self._unsent)
        self._unsent = memoryview(data)[sent:]
        if self._unsent and not had_unsent:
            self._wake()
